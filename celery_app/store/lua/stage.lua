-- Put payloads aside for a run that goes on; the commit that refers to them follows.
-- keys: inst pay
-- args: instance:str execution:str payloads:pack
-- include: status
local r = redis.call('HMGET', inst .. instance, 'execution', 'status')
if r[1] ~= execution or ENDED[r[2]] then
  return redis.error_reply('GONE instance ' .. instance .. ' no longer runs as ' .. execution)
end
for _, pair in ipairs(payloads) do redis.call('HSET', pay .. execution, pair[1], pair[2]) end
return #payloads
