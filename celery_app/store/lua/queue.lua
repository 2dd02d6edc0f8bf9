-- Messages into a Celery queue, and tokens for its consumers (they block on tokens, never on the queue itself).
-- keys: token

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

local function queue_push(queue_key, messages)
  for first = 1, #messages, 1000 do
    redis.call('LPUSH', queue_key, unpack(messages, first, math.min(first + 999, #messages)))
  end
  queue_tokens(queue_key, #messages)
end
