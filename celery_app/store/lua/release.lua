-- Give one claim back without a commit, claimable again after a while, and say why (e.g. its version is not served).
-- keys: inst claims ready
-- args: instance:str claim:str delay:int reason:str
-- include: ready
if redis.call('HGET', inst .. instance, 'claim') ~= claim then
  return redis.error_reply('FENCED instance ' .. instance .. ' is no longer held by claim ' .. claim)
end
redis.call('HSET', inst .. instance, 'stage', '1', 'claim', '', 'waiting', reason)
redis.call('HDEL', inst .. instance, 'alone')
redis.call('SREM', claims .. string.match(claim, '^(.*)%.%d+$'), instance)
redis.call('ZADD', ready, string.format('%.0f', now + delay), instance)
if delay == 0 then wake_up() end
return 1
