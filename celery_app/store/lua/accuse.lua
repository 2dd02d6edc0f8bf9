-- The code of this run misbehaved while nobody had claimed it, when it was let go of: the next claim is alone.
-- keys: inst
-- args: instance:str execution:str
-- include: status
local r = redis.call('HMGET', inst .. instance, 'execution', 'status')
if r[1] ~= execution or ENDED[r[2]] then return 0 end
redis.call('HSET', inst .. instance, 'suspect', '1')
return 1
