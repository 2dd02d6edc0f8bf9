-- Give one claim back without a commit, claimable again after a while, and say why (e.g. its version is not served).
-- `charge`: the turn itself was at fault (it passed its deadline, say); it counts like a process that died while it ran
-- the instance alone. With `most` such charges (0: any number) the instance is suspended in the same call, with
-- `rest` at once.
-- keys: inst claims ready
-- args: instance:str claim:str delay:int reason:str charge:flag most:int rest:flag
-- include: controlling

-- Fence.
if redis.call('HGET', inst .. instance, 'claim') ~= claim then
  return redis.error_reply('FENCED instance ' .. instance .. ' is no longer held by claim ' .. claim)
end

-- Write.
redis.call('HSET', inst .. instance, 'stage', '1', 'claim', '', 'waiting', reason)
redis.call('HDEL', inst .. instance, 'alone')
redis.call('SREM', claims .. string.match(claim, '^(.*)%.%d+$'), instance)
local crashes = tonumber(redis.call('HGET', inst .. instance, 'crashes') or '0')
if charge then
  crashes = crashes + 1
  redis.call('HSET', inst .. instance, 'suspect', '1', 'crashes', crashes)
end
if rest or (most > 0 and crashes >= most) then
  quarantine(instance, reason)
  return 2
end
redis.call('ZADD', ready, string.format('%.0f', now + delay), instance)
if delay == 0 then wake_up() end
return 1
