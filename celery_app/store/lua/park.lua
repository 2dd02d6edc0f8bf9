-- keys: parked parked_body flight
-- args: member:str queue_key:str message:str due:int incarnation:str field:str
-- Keeps a message until its time: a published one with a countdown (incarnation ''), or one that a worker took before
-- its time, which then leaves the flight record in the same call.
if incarnation ~= '' and redis.call('HEXISTS', flight .. incarnation, field) == 0 then return 0 end
redis.call('HSET', parked_body, member, queue_key .. '\n' .. message)
redis.call('ZADD', parked, due, member)
if incarnation ~= '' then redis.call('HDEL', flight .. incarnation, field) end
return 1
