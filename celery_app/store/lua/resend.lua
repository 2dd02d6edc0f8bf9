-- Another message for a step whose own is lost: only while the step is exactly as the audit saw it, and, if it is
-- queued, its message is still gone. Returns OK, GONE, or NOTED for a step of an older release, of which only now is
-- known where it is queued.
-- args: instance:str execution:str seq:str state:str queue_key:str message:str
-- include: time marks queue steps
-- keys: mended
local key = open .. execution

-- Fence and check.
if redis.call('HGET', key, seq) ~= state then return 'GONE' end
if not is_queue(queue_key) then
  return redis.error_reply('CLASH the key ' .. queue_key .. ' is to be a queue but holds another type')
end
local attempt, tail = string.match(state, '^%d+'), tail_of(state)
local own = string.sub(state, 1, #state - #tail)
local ordinal, queued_in = string.match(own, '^%d+|q|(-?%d+)|(.*)|$')
if ordinal and redis.call('LLEN', queued_in) > 0 and queue_gone(queued_in) < tonumber(ordinal) then return 'GONE' end
if string.find(own, '^%d+$') and redis.call('LLEN', queue_key) > 0 then
  local last = tonumber(redis.call('HGET', pushed, queue_key) or '0')
  redis.call('HSET', key, seq, queued_as(attempt, last, queue_key, tail))
  return 'NOTED'
end

-- Write.
local count = tonumber(string.match(redis.call('HGET', key, 'l' .. seq) or '0', '^%d+')) + 1
redis.call('HSET', key, seq, queued_as(attempt, queue_counted(queue_key, 1), queue_key, tail),
  'l' .. seq, string.format('%.0f', count) .. ' ' .. now_s)
queue_push(queue_key, {message})
redis.call('HINCRBY', mended, string.find(own, '^%d+|r|') and 'run' or string.find(own, '^%d+|p') and 'retry' or 'message', 1)
if string.find(own, '^%d+|p') then
  -- A part that waited for its retry held no slot of its group's window; now it does again.
  local g = string.match(tail, 'g%d+$')
  if g and redis.call('HEXISTS', key, g) == 1 then redis.call('HINCRBY', key, g .. 'i', 1) end
else
  local task = execution .. ':' .. seq .. ':' .. attempt .. ':' .. instance
  redis.call('ZREM', deadlines, 'c:' .. task, 'h:' .. task) -- they count from its start
end
return 'OK'
