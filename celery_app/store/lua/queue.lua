-- Messages into a Celery queue, and tokens for its consumers (they block on tokens, never on the queue itself).
-- keys: token pushed

-- Users can make a key of any type under a queue's name, so ask before the first write.
local function is_queue(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'list' or kind == 'none'
end

local function queue_tokens(queue_key, n)
  local key = token .. string.match(queue_key, '^[^\6]*')
  local room = math.min(n, 16, 64 - redis.call('LLEN', key))
  for _ = 1, room do redis.call('LPUSH', key, '1') end
end

-- The engine's own messages are counted as they come to the tail of a queue: `n` more, and the new count. A queue is
-- first in, first out, so `gone` tells which of them can no longer be in it (see audit_steps.lua).
local function queue_counted(queue_key, n)
  return redis.call('HINCRBY', pushed, queue_key, n)
end

-- How many have left the list by its head. Messages that nobody counted make it smaller, never larger.
local function queue_gone(queue_key)
  return tonumber(redis.call('HGET', pushed, queue_key) or '0') - redis.call('LLEN', queue_key)
end

-- The field of a queued step; `tail` as in marks.lua. The bar behind the queue keeps a queue called `x|g1` apart from it.
local function queued_as(attempt, ordinal, queue_key, tail)
  return attempt .. '|q|' .. string.format('%.0f', ordinal) .. '|' .. queue_key .. '|' .. tail
end

local function queue_push(queue_key, messages)
  for first = 1, #messages, 1000 do
    redis.call('LPUSH', queue_key, unpack(messages, first, math.min(first + 999, #messages)))
  end
  queue_tokens(queue_key, #messages)
end
