-- What dead orchestrators and listeners held, deadlines that passed, and work left by ended executions.
-- (Dead workers: sweep_flights.lua.) An incarnation is forgotten when a second sweep finds it empty.
-- keys: beats procs claims trig deadlines closing parked_body
-- args: limit:int lease:int
-- include: controlling ends groups triggers heard
local NAMES = 1000 -- lapsed ones looked at, those of workers among them

local claims_back, messages_back, closed, lapsed, dead = 0, 0, 0, {}, {}
local left = limit

-- The next claim of such an instance is alone; only a crash while alone counts against it.
local function claims_of_dead(incarnation)
  local mine = claims .. incarnation
  local n = 0
  for _, id in ipairs(redis.call('SRANDMEMBER', mine, left)) do
    local r = redis.call('HMGET', inst .. id, 'claim', 'alone')
    if r[1] and string.match(r[1], '^(.*)%.%d+$') == incarnation then
      redis.call('HSET', inst .. id, 'stage', '1', 'claim', '', 'suspect', '1')
      if r[2] then
        redis.call('HINCRBY', inst .. id, 'crashes', 1)
        redis.call('HDEL', inst .. id, 'alone')
      end
      redis.call('ZADD', ready, now_s, id)
      wake_up()
    end
    redis.call('SREM', mine, id)
    n = n + 1
  end
  claims_back = claims_back + n
  return n
end

-- After a silence (heard.lua) nothing that passed in it is judged for a lease. What is to be closed frees memory: it is done
-- though nothing can be noted.
local judged = note_life(redis.call('LLEN', closing) > 0)
for _, incarnation in ipairs(not judged and {} or redis.call('ZRANGEBYSCORE', beats, '-inf', now_s, 'LIMIT', 0, NAMES)) do
  local kind = string.sub(incarnation, 1, 1)
  if (kind == 'o' or kind == 't') and left > 0 then
    local n = kind == 'o' and claims_of_dead(incarnation) or listener_back(incarnation, left)
    if kind == 't' then messages_back = messages_back + n end
    left = left - n
    if redis.call('ZSCORE', beats, incarnation) ~= '0' then
      redis.call('ZADD', beats, 0, incarnation)
      dead[#dead + 1] = incarnation
    elseif n == 0 then
      redis.call('ZREM', beats, incarnation)
      redis.call('HDEL', procs, incarnation)
    end
  end
end

-- A passed deadline is handed to one caller; if it dies, to another one a lease later.
local until_s = string.format('%.0f', judged or 0)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', until_s, 'LIMIT', 0, left)) do
  local execution, seq, attempt = string.match(member, '^%a:(%x+):(%d+):(%d+):')
  local value = execution and redis.call('HGET', open .. execution, seq)
  if value and string.match(value, '^%d+') == attempt then
    redis.call('ZADD', deadlines, string.format('%.0f', now + lease), member)
    lapsed[#lapsed + 1] = member
  else
    redis.call('ZREM', deadlines, member)
  end
end

-- Fields of an ended execution with very many open steps.
local function clean(execution, id, reason)
  local key = open .. '~' .. execution
  local cursor, batch = '0', nil
  repeat -- a scan gives up after 2,000 empty buckets, and the first ones are empty soon
    local page = redis.call('HSCAN', key, cursor, 'COUNT', 200)
    cursor, batch = page[1], page[2]
  until #batch > 0 or cursor == '0'
  for i = 1, #batch, 2 do
    close_field(id, execution, batch[i], batch[i + 1], reason)
    redis.call('HDEL', key, batch[i])
  end
  if redis.call('EXISTS', key) == 1 then
    redis.call('RPUSH', closing, table.concat({'clean', execution, id, reason}, '\n'))
  end
end

local function close_one(verb, execution, id, rest)
  local r = redis.call('HMGET', inst .. id, 'execution', 'status', 'stage', 'suspended', 'born')
  local run = verb == 'spill' and r[1] or r[5]
  if verb == 'clean' then
    clean(execution, id, rest)
  elseif run ~= execution or ENDED[r[2]] then
    return
  elseif verb == 'terminate' then
    terminate_instance(id, rest)
  elseif verb == 'cancel' then
    cancel(id, rest)
  elseif verb == 'spill' then
    local gseq, size, first = string.match(rest, '^(%d+) (%d+) (%d+)$')
    spill(id, execution, gseq, tonumber(size), tonumber(first), 500)
    if has_work(id, r[4]) then make_ready(id, r[3], r[4]) end
  end
end

for _ = 1, math.min(redis.call('LLEN', closing), math.ceil(limit / 20)) do
  local verb, execution, id, rest = string.match(redis.call('LPOP', closing), '^(%a+)\n(%x+)\n([^\n]*)\n(.*)$')
  if verb then close_one(verb, execution, id, rest) end
  closed = closed + 1
end

local more = (left <= 0 or redis.call('LLEN', closing) > 0 or #lapsed >= left) and 1 or 0
return {claims_back, messages_back, closed, lapsed, dead, more}
