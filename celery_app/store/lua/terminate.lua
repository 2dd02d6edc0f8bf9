-- Hard end: fences a running turn, removes what is open, leaves children to the sweep.
-- args: instance:str reason:str
-- include: ends
local status = redis.call('HGET', inst .. instance, 'status')
if not status then return redis.error_reply('NOTFOUND no instance has the id ' .. instance) end
if ENDED[status] then return redis.error_reply('ENDED instance ' .. instance .. ' has ended: ' .. status) end
terminate_instance(instance, reason)
return 1
