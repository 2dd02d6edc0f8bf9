-- keys: beats open flight token
-- args: incarnation:str base:int limit:int queues:pack
-- include: time marks queue
-- Moves messages from queue keys (queues: key, cap, key, cap, ...; in this order) into the flight record of an incarnation,
-- under the fields base + 1, base + 2, ... The engine's own are checked and marked running in the same call; what is not
-- open, not current or already running elsewhere is dropped. Reply: dropped, left over (0 or 1), then queue number and message of each.

local score = redis.call('ZSCORE', beats, incarnation)
if not score or tonumber(score) <= 0 then
  return redis.error_reply('FENCED incarnation ' .. incarnation .. ' lapsed or was never announced; take a new one')
end

local lengths = {}
for i = 1, #queues, 2 do
  local length = redis.pcall('LLEN', queues[i])
  if type(length) == 'table' then
    return redis.error_reply('CLASH ' .. queues[i] .. ' is not a list, so it cannot be a queue')
  end
  lengths[i] = length
end

-- Whether this worker should have the message; marks its step.
local function admit(message)
  local execution, seq, attempt = step_of(message)
  if not execution then return true end
  local state = seq and redis.call('HGET', open .. execution, seq)
  if not is_current(state, attempt) then return false end
  local holder = holder_of(state)
  if holder then
    local lapses = redis.call('ZSCORE', beats, holder)
    if lapses and tonumber(lapses) > 0 then return false end -- whether it lapsed is for a sweep to say
  end
  redis.call('HSET', open .. execution, seq, attempt .. '|r|' .. incarnation .. '|' .. now_s .. tail_of(state))
  return true
end

-- Keys come by priority; while one of a higher priority keeps messages, none of a lower one is taken.
local key, count, dropped, reply, left = flight .. incarnation, 0, 0, {0, 0}, 0
local priority, kept_back = nil, false
for i = 1, #queues, 2 do
  local queue_key, cap, length = queues[i], queues[i + 1], lengths[i]
  local step = string.match(queue_key, '\6\22(%d+)$') or '0'
  if step ~= priority and kept_back then break end
  priority = step
  while length > 0 and cap > 0 and count < limit and dropped < 1000 do
    local message = redis.call('RPOP', queue_key)
    length = length - 1
    if admit(message) then
      count, cap = count + 1, cap - 1
      redis.call('HSET', key, base + count, queue_key .. '\n' .. message)
      reply[#reply + 1] = (i - 1) / 2
      reply[#reply + 1] = message
    else
      dropped = dropped + 1
    end
  end
  lengths[i] = length
  kept_back = kept_back or length > 0
end

-- One token for the next idle worker where messages stay behind; none where nothing is left.
local waiting = {}
for i = 1, #queues, 2 do
  local list = token .. string.match(queues[i], '^[^\6]*')
  waiting[list] = waiting[list] or {queue_key = queues[i], length = 0}
  waiting[list].length = waiting[list].length + lengths[i]
end
for list, queue in pairs(waiting) do
  if queue.length == 0 then
    redis.call('DEL', list)
  else
    left = 1
    if redis.call('LLEN', list) == 0 then queue_tokens(queue.queue_key, 1) end
  end
end
reply[1], reply[2] = dropped, left
return reply
