-- The outcome of an activity attempt: a success of any attempt, a failure only of the current one.
-- A single step puts its event into the inbox. A part of a group is stored by index and counted; the last one
-- puts GroupCompleted there. `text` is open text: of the event, or of the PartOutcome when index >= 0.
-- args: instance:str execution:str seq:str attempt:str success:flag text:str index:int payloads:pack
-- include: ready steps groups
local key = open .. execution

-- Fence and check. Every key below is ours, so no type can be wrong.
local v = redis.call('HMGET', key, seq, 'f' .. seq)
local value = v[1]
if not value or not string.find(value, '^%d') then return 'GONE' end
if not success and string.match(value, '^%d+') ~= attempt then return 'STALE' end
local record = redis.call('HMGET', inst .. instance, 'stage', 'execution', 'suspended')
if record[2] ~= execution then return 'GONE' end
local gseq = string.match(value, '|g(%d+)$')
if (gseq == nil) ~= (index < 0) then return redis.error_reply('GONE step ' .. seq .. ' is not of that shape') end

-- Write. Each first write refuses when memory is out.
for _, pair in ipairs(payloads) do redis.call('HSET', pay .. execution, pair[1], pair[2]) end
local awake = false
if not gseq then
  redis.call('RPUSH', inbox .. instance, text .. attempts_text(v[2]) .. ',"at":' .. now_s .. '}')
  redis.call('HDEL', key, seq, 'f' .. seq)
  awake = true
else
  local g = 'g' .. gseq
  local group = redis.call('HMGET', key, g, g .. 'x', g .. 'd', g .. 'f')
  local failed = attempts_text(v[2])
  if group[1] and not group[2] then
    if text == '{' and failed ~= '' then failed = string.sub(failed, 2) end
    redis.call('HSET', pay .. execution, g .. ':' .. string.format('%.0f', index),
      (success and '+' or '-') .. text .. failed .. '}')
    redis.call('HINCRBY', key, g .. 'd', 1)
    if not success then redis.call('HINCRBY', key, g .. 'f', 1) end
  else
    redis.call('RPUSH', inbox .. instance, part_event(seq, success, text, failed))
    awake = true
  end
  redis.call('HDEL', key, seq, 'f' .. seq)
  if group[1] then
    if not string.find(value, '^%d+|p') then redis.call('HINCRBY', key, g .. 'i', -1) end
    if not group[2] and tonumber(group[3]) + 1 == tonumber(group[1]) then
      local n = tonumber(group[4]) + (success and 0 or 1)
      redis.call('RPUSH', inbox .. instance, '{"k":6,"seq":' .. gseq .. ',"failed":' .. n .. ',"at":' .. now_s .. '}')
      forget_group(key, gseq)
      awake = true
    elseif want_window(instance, key, gseq) then
      awake = true
    end
  end
end
drop_attempt(execution, seq, value, instance)
if awake then make_ready(instance, record[1], record[3]) end
return 'OK'
