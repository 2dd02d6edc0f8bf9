-- keys: parked parked_body open
-- args: limit:int
-- include: time marks queue
-- Moves due parked messages to their queues; a retry only while its step is open, waiting and at this attempt.
-- Returns how many moved, and when the next one is due (-1: nothing is parked).
local CLASH_AGAIN = 5000 -- milliseconds until a queue whose key holds another type is tried again

local function still_wanted(member, queue_key)
  if string.sub(member, 1, 1) == '~' then return true end
  local execution, seq, attempt = string.match(member, '^(%x+):(%d+):(%d+):')
  local state = execution and redis.call('HGET', open .. execution, seq)
  if not is_current(state, attempt) or not string.find(state, '^%d+|p') then return false end
  local ordinal = queue_counted(queue_key, 1)
  redis.call('HSET', open .. execution, seq, queued_as(attempt, ordinal, queue_key, tail_of(state)))
  -- A part that waited for its retry held no slot of its group's window; now it does again.
  local group = string.match(state, '|(g%d+)$')
  if group and redis.call('HEXISTS', open .. execution, group) == 1 then
    redis.call('HINCRBY', open .. execution, group .. 'i', 1)
  end
  return true
end

local moved = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', parked, '-inf', now_s, 'LIMIT', 0, limit)) do
  local body = redis.call('HGET', parked_body, member)
  local cut = body and string.find(body, '\n', 1, true)
  local queue_key = cut and string.sub(body, 1, cut - 1)
  if queue_key and not is_queue(queue_key) then
    redis.call('ZADD', parked, string.format('%.0f', now + CLASH_AGAIN), member)
  else
    if queue_key and still_wanted(member, queue_key) then
      queue_push(queue_key, {string.sub(body, cut + 1)})
      moved = moved + 1
    end
    redis.call('ZREM', parked, member)
    redis.call('HDEL', parked_body, member)
  end
end
local first = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')
return {moved, first[2] and tonumber(first[2]) or -1}
