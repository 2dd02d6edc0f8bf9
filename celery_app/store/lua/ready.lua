-- Made ready: an idle instance becomes claimable, once, and a token wakes an orchestrator.
-- keys: inst hist inbox control ready wake
-- include: time
local function wake_up()
  if redis.call('LLEN', wake) < 64 then redis.call('LPUSH', wake, '1') end
end

-- `held` says that the instance is suspended or its start is still to come. At stage 1 and 2 there is
-- nothing to do: the claim reads the inbox, and the commit re-readies while it is not empty.
local function make_ready(id, stage, held)
  if stage == '0' and not held then
    redis.call('HSET', inst .. id, 'stage', '1')
    redis.call('ZADD', ready, now_s, id)
    wake_up()
  end
end

-- The same for what a client asks: an instance that waits (for a process that serves its version, say) does not wait on.
local function make_ready_now(id, stage, held)
  if stage ~= '1' or held then
    make_ready(id, stage, held)
  elseif redis.call('ZADD', ready, 'XX', 'LT', 'CH', now_s, id) == 1 then
    wake_up()
  end
end

-- Is there anything to claim this instance for? Controls wait until the run has begun.
local function has_work(id, suspended)
  if not suspended and redis.call('LLEN', inbox .. id) > 0 then return true end
  return redis.call('LLEN', control .. id) > 0 and redis.call('LLEN', hist .. id) > 0
end

-- RPUSH, at most 1,000 values a command.
local function push_all(key, values)
  for first = 1, #values, 1000 do
    redis.call('RPUSH', key, unpack(values, first, math.min(first + 999, #values)))
  end
end
