-- Messages a queue listener has taken: `trig:{listener}` holds number: tries, id, queue and message, newlines between.
-- They go back to `again:{queue}`, which is taken from before the queue itself and remembers tries and id. The id is given at
-- the first take and stays, so that what a starter does for the message can be done once, whoever does it.
-- keys: trig again
-- include: queue

local function parse_taken(body)
  local tries, id, queue, message = string.match(body, '^(%d+)\n([^\n]*)\n([^\n]*)\n(.*)$')
  return tonumber(tries), id, queue, message
end

local function to_again(queue, tries, id, message)
  redis.call('RPUSH', again .. queue, string.format('%.0f', tries) .. '\n' .. id .. '\n' .. message)
end

-- At most `limit` messages of a dead listener, oldest first. Its death counts as a try.
local function listener_back(listener, limit)
  local key = trig .. listener
  local numbers = redis.call('HKEYS', key)
  table.sort(numbers, function(a, b) return tonumber(a) < tonumber(b) end)
  for i = 1, math.min(#numbers, limit) do
    local tries, id, queue, message = parse_taken(redis.call('HGET', key, numbers[i]))
    to_again(queue, tries + 1, id, message)
    redis.call('HDEL', key, numbers[i])
  end
  return math.min(#numbers, limit)
end
