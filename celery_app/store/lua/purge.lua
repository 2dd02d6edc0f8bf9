-- Remove an instance that has ended.
-- args: instance:str
-- include: ends
local status = redis.call('HGET', inst .. instance, 'status')
if not status then return redis.error_reply('NOTFOUND no instance has the id ' .. instance) end
if not ENDED[status] then
  return redis.error_reply('RUNNING instance ' .. instance .. ' has not ended (' .. status .. '); terminate it first')
end
remove_instance(instance)
redis.call('UNLINK', below .. instance)
return 1
