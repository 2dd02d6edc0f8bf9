-- A try failed and the listener keeps the message for another one: returns the tries that failed so far, -1 if it lost it.
-- args: listener:str number:str
-- include: triggers
local body = redis.call('HGET', trig .. listener, number)
if not body then return -1 end
local tries, id, queue, message = parse_taken(body)
redis.call('HSET', trig .. listener, number,
  table.concat({string.format('%.0f', tries + 1), id, queue, message}, '\n'))
return tries + 1
