-- A timer that is open and in no list of timers is due again at its time, which the caller read from the history.
-- keys: open timers mended
-- args: instance:str execution:str seq:str due:int
if redis.call('HGET', open .. execution, seq) ~= 't' then return 'GONE' end
if redis.call('ZADD', timers, 'NX', string.format('%.0f', due), execution .. ':' .. seq .. ':' .. instance) == 0 then
  return 'GONE'
end
redis.call('HINCRBY', mended, 'timer', 1)
return 'OK'
