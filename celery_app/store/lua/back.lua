-- keys: open flight deadlines
-- include: marks queue

-- The rest of a task id after `task`, as it stands in the JSON text of a message: the instance.
local function instance_of(message, task)
  local _, start = string.find(message, '"' .. task, 1, true)
  if not start then return nil end
  local from, quote = start + 1, nil
  repeat
    quote = string.find(message, '["\\]', from)
    from = (quote or 0) + 2
  until not quote or string.byte(message, quote) == 34
  local read, list = pcall(cjson.decode, '["' .. string.sub(message, start + 1, (quote or 0) - 1) .. '"]')
  return quote and read and list[1] or nil
end

-- An attempt that is queued again runs no longer: its time must not pass while it waits.
local function disarm(message, task)
  local instance = instance_of(message, task)
  if instance then redis.call('ZREM', deadlines, 'c:' .. task .. instance, 'h:' .. task .. instance) end
end

-- Undoes a take: the message to its queue (the head, where it is taken next, or the tail), its step to queued. A message
-- whose step was closed meanwhile is dropped. nil, and nothing is written, while the queue's key holds another type.
local function put_back(incarnation, body, head)
  local cut = string.find(body, '\n', 1, true)
  local queue_key, message = string.sub(body, 1, cut - 1), string.sub(body, cut + 1)
  if not is_queue(queue_key) then return nil end
  local execution, seq, attempt = step_of(message)
  if execution then
    local state = seq and redis.call('HGET', open .. execution, seq)
    if not is_current(state, attempt) then return 0 end
    if holder_of(state) == incarnation then
      redis.call('HSET', open .. execution, seq, attempt .. group_of(state))
      disarm(message, execution .. ':' .. seq .. ':' .. attempt .. ':')
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
      local back = put_back(incarnation, body, head)
      if back then
        given = given + back
        redis.call('HDEL', key, field)
      end
    end
  end
  return given
end
