-- suspend, resume and cancel. They reach the orchestrator as control events, before and beside the inbox.
-- While a run has no history its first event must be ExecutionStarted: cancel then goes right behind it, and
-- suspend and resume only set the status.
-- args: instance:str verb:str reason:str
-- include: controlling
local r = redis.call('HMGET', inst .. instance, 'status')
if not r[1] then return redis.error_reply('NOTFOUND no instance has the id ' .. instance) end
if ENDED[r[1]] then return redis.error_reply('ENDED instance ' .. instance .. ' has ended: ' .. r[1]) end
if verb == 'suspend' then return suspend(instance, reason) end
if verb == 'resume' then return resume(instance, reason) end
return cancel(instance, reason)
