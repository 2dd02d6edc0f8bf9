-- The record of an instance, with what is counted elsewhere.
-- keys: inst hist inbox
-- args: instance:str
local record = redis.call('HGETALL', inst .. instance)
if #record == 0 then return redis.error_reply('NOTFOUND no instance has the id ' .. instance) end
local started = redis.call('LINDEX', hist .. instance, 0) or redis.call('LINDEX', inbox .. instance, 0)
return {record, redis.call('LLEN', hist .. instance), redis.call('LLEN', inbox .. instance), started}
