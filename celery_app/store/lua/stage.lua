-- Put payloads aside for a run that goes on; the commit under the same claim that refers to them follows. Fenced like it:
-- who lost the claim must not write over what the next claimant staged under the same names and committed.
-- keys: inst pay
-- args: instance:str execution:str claim:str payloads:pack
-- include: status
local r = redis.call('HMGET', inst .. instance, 'execution', 'status', 'claim')
if r[1] ~= execution or ENDED[r[2]] then
  return redis.error_reply('GONE instance ' .. instance .. ' no longer runs as ' .. execution)
end
if r[3] ~= claim then
  return redis.error_reply('FENCED instance ' .. instance .. ' is no longer held by claim ' .. claim)
end
for _, pair in ipairs(payloads) do redis.call('HSET', pay .. execution, pair[1], pair[2]) end
return #payloads
