-- A failed attempt that is to be tried again: the next one is parked until it is due; nobody is woken.
-- `failed` is the JSON of the Attempt; `start_by` the deadline for its start, or 0;
-- `lost` how many processes died in a row under the step; `notes` what else the message says of earlier attempts.
-- args: instance:str execution:str seq:str attempt:int due:int queue_key:str message:str failed:str start_by:int lost:int notes:str
-- include: ready steps groups
local MOST = 10 -- failed attempts remembered
local key = open .. execution

-- Fence and check.
local v = redis.call('HMGET', key, seq, 'f' .. seq)
local value = v[1]
if not value or not string.find(value, '^%d') then return 'GONE' end
local current = tonumber(string.match(value, '^%d+'))
if current == attempt + 1 and string.find(value, '^%d+|p') then return 'OK' end -- sent twice
if current ~= attempt then return 'STALE' end
local record = redis.call('HMGET', inst .. instance, 'stage', 'execution', 'suspended')
if record[2] ~= execution then return 'GONE' end

-- Write.
local following = string.format('%.0f', attempt + 1)
local member = execution .. ':' .. seq .. ':' .. following .. ':' .. instance
local group = string.match(value, '|g%d+$') or ''
local tail = (lost > 0 and string.format('|l%.0f', lost) or '') .. group
local kept = failed
if v[2] then
  -- JSON has no raw newline, so ",\n" separates; without the oldest when there are more than MOST.
  local list = {}
  for text in string.gmatch(v[2] .. ',\n', '(.-),\n') do list[#list + 1] = text end
  list[#list + 1] = failed
  kept = table.concat(list, ',\n', math.max(1, #list - MOST + 1))
end
redis.call('HSET', key, seq, following .. '|p|' .. tail, 'f' .. seq, kept)
redis.call('HSET', parked_body, member, queue_key .. '\n' .. message)
redis.call('ZADD', parked, string.format('%.0f', due), member)
if notes ~= '' then redis.call('HSET', key, 'n' .. seq, notes) end
redis.call('HDEL', key, 'l' .. seq) -- another attempt: its message was not lost yet
drop_attempt(execution, seq, value, instance)
if start_by > 0 then redis.call('ZADD', deadlines, string.format('%.0f', start_by), 's:' .. member) end
if group ~= '' and not string.find(value, '^%d+|p') then
  local gseq = string.sub(group, 3)
  if redis.call('HEXISTS', key, 'g' .. gseq) == 1 then
    redis.call('HINCRBY', key, 'g' .. gseq .. 'i', -1)
    if want_window(instance, key, gseq) then make_ready(instance, record[1], record[3]) end
  end
end
return 'OK'
