-- The message becomes an event of an existing instance, in one transaction.
-- keys: trig
-- args: listener:str number:str
-- include: raising
if redis.call('HEXISTS', trig .. listener, number) == 0 then
  return redis.error_reply('GONE message ' .. number .. ' is no longer held by listener ' .. listener)
end
local reply = raise()
if type(reply) == 'table' then return reply end
redis.call('HDEL', trig .. listener, number)
return reply
