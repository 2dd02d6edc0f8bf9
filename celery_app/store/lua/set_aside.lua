-- keys: flight aside open
-- args: incarnation:str field:str reason:str
-- include: marks queue
-- A taken message that nobody can read leaves the flight record for the list of such messages. If it can be seen to be a
-- step's, the step counts as queued with its message gone: the audit sends it again.
local body = redis.call('HGET', flight .. incarnation, field)
if not body then return 0 end
redis.call('LPUSH', aside, reason .. '\n' .. body)
redis.call('LTRIM', aside, 0, 999)
local cut = string.find(body, '\n', 1, true)
local execution, seq, attempt = step_of(string.sub(body, cut + 1))
local state = seq and redis.call('HGET', open .. execution, seq)
if is_current(state, attempt) and holder_of(state) == incarnation then
  local queue_key = string.sub(body, 1, cut - 1)
  local ordinal = is_queue(queue_key) and queue_gone(queue_key) or 0
  redis.call('HSET', open .. execution, seq, queued_as(attempt, ordinal, queue_key, tail_of(state)))
end
redis.call('HDEL', flight .. incarnation, field)
return 1
