-- keys: open flight deadlines parked parked_body procs
-- include: time marks queue

local FIRST_PAUSE = 2000 -- milliseconds that a step waits whose process died for the second time in a row, doubled each time

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

-- The process that ran a step died. The first time the step is queued again (false), then it waits, each time longer and not as
-- long as its neighbours, so that the innocent among what died together part from the guilty. After `most` deaths in a row it
-- is not run again: who judges passed deadlines ends the attempt.
local function bury(message, task, state, most)
  local instance = instance_of(message, task)
  local attempt, tail = string.match(state, '^%d+'), tail_of(state)
  local lost, group = tonumber(string.match(tail, '|l(%d+)')) or 0, string.match(tail, '|g%d+$') or ''
  local execution, seq = string.match(task, '^(%x+):(%d+)')
  local key = open .. execution
  if instance and lost >= most then
    redis.call('ZADD', deadlines, now_s, 'l:' .. task .. instance)
    redis.call('HSET', key, seq, attempt .. '|d|' .. tail)
    return true
  end
  local later = instance and lost > 0
  redis.call('HSET', key, seq, attempt .. (later and '|p|' or '') .. string.format('|l%.0f', lost + 1) .. group)
  if not later then return false end
  local pause = FIRST_PAUSE * 2 ^ math.min(lost - 1, 8) * (1 + (seq * 389 + lost * 613) % 1000 / 1000)
  return pause, task .. instance, string.sub(group, 3)
end

-- Undoes a take: the message to its queue (the head, where it is taken next, or the tail), its step to queued. A message
-- whose step was closed meanwhile is dropped. nil, and nothing is written, while the queue's key holds another type.
-- `most`: the message was being run by a process that died, and that is how often it may happen.
local function put_back(incarnation, body, head, most)
  local cut = string.find(body, '\n', 1, true)
  local queue_key, message = string.sub(body, 1, cut - 1), string.sub(body, cut + 1)
  if not is_queue(queue_key) then return nil end
  local execution, seq, attempt = step_of(message)
  local state = seq and redis.call('HGET', open .. execution, seq)
  if execution and not is_current(state, attempt) then return 0 end
  local task = execution and holder_of(state) == incarnation and execution .. ':' .. seq .. ':' .. attempt .. ':'
  if task and most then
    disarm(message, task)
    local pause, member, gseq = bury(message, task, state, most)
    if pause == true then return 1 end
    if pause then
      redis.call('HSET', parked_body, member, body)
      redis.call('ZADD', parked, string.format('%.0f', now + pause), member)
      if gseq ~= '' and redis.call('HEXISTS', open .. execution, 'g' .. gseq) == 1 then
        redis.call('HINCRBY', open .. execution, 'g' .. gseq .. 'i', -1) -- who waits holds no slot
      end
      return 1
    end
    state = redis.call('HGET', open .. execution, seq)
  end
  redis.call(head and 'RPUSH' or 'LPUSH', queue_key, message)
  if task then
    -- At the head it is the next to go.
    local ordinal = head and queue_gone(queue_key) + 1 or queue_counted(queue_key, 1)
    redis.call('HSET', open .. execution, seq, queued_as(attempt, ordinal, queue_key, tail_of(state)))
    disarm(message, task)
  end
  queue_tokens(queue_key, 1)
  return 1
end

-- Newest first, so that pushed to the head the oldest is taken first again.
local function newest_first(fields)
  table.sort(fields, function(a, b) return tonumber(a) > tonumber(b) end)
  return fields
end

-- Of the fields (newest first) of a dead worker those that it had started: the oldest, as many as it ran at once.
local function started_by(incarnation, fields)
  local slots = tonumber(string.match(redis.call('HGET', procs, incarnation) or '', '"concurrency": ?(%d+)')) or #fields
  local started = {}
  for i = #fields, 1, -1 do
    if slots == 0 then break end
    local body = redis.call('HGET', flight .. incarnation, fields[i])
    local execution, seq, attempt = step_of(body or '')
    if body and (not execution or is_current(seq and redis.call('HGET', open .. execution, seq), attempt)) then
      started[fields[i]], slots = true, slots - 1
    end
  end
  return started
end

-- `started`: those of a dead process, which may have been its death; more than `most` in a row are not given back.
local function give_back_fields(incarnation, fields, head, started, most)
  local given, key = 0, flight .. incarnation
  for _, field in ipairs(newest_first(fields)) do
    local body = redis.call('HGET', key, field)
    if body then
      local back = put_back(incarnation, body, head, started and started[field] and most)
      if back then
        given = given + back
        redis.call('HDEL', key, field)
      end
    end
  end
  return given
end
