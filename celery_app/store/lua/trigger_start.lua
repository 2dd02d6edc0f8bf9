-- The message becomes an instance: both in one transaction, so exactly one instance per message.
-- keys: trig
-- args: listener:str number:str req:pack
-- include: create room
if redis.call('HEXISTS', trig .. listener, number) == 0 then
  return redis.error_reply('GONE message ' .. number .. ' is no longer held by listener ' .. listener)
end
local verdict, there = conflict_of(req)
if verdict == 'exists' then
  return redis.error_reply('EXISTS an instance with the id ' .. req.instance .. ' is still running')
end
if not verdict then
  if no_room() then return refuse_new() end
  create_instance(req)
end
redis.call('HDEL', trig .. listener, number)
return {req.instance, there or req.execution, verdict == 'use' and 0 or 1}
