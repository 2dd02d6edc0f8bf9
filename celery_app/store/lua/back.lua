-- keys: open flight
-- include: marks queue

-- Undoes a take: the message to its queue (the head, where it is taken next, or the tail), its step to queued. A message
-- whose step was closed meanwhile is dropped.
local function put_back(incarnation, body, head)
  local cut = string.find(body, '\n', 1, true)
  local queue_key, message = string.sub(body, 1, cut - 1), string.sub(body, cut + 1)
  local execution, seq, attempt = step_of(message)
  if execution then
    local state = seq and redis.call('HGET', open .. execution, seq)
    if not is_current(state, attempt) then return 0 end
    if holder_of(state) == incarnation then
      redis.call('HSET', open .. execution, seq, attempt .. group_of(state))
    end
  end
  redis.call(head and 'RPUSH' or 'LPUSH', queue_key, message)
  queue_tokens(queue_key, 1)
  return 1
end

-- Newest first, so that pushed to the head the oldest is taken first again.
local function newest_first(fields)
  table.sort(fields, function(a, b) return tonumber(a) > tonumber(b) end)
  return fields
end

local function give_back_fields(incarnation, fields, head)
  local given, key = 0, flight .. incarnation
  for _, field in ipairs(newest_first(fields)) do
    local body = redis.call('HGET', key, field)
    if body then
      given = given + put_back(incarnation, body, head)
      redis.call('HDEL', key, field)
    end
  end
  return given
end
