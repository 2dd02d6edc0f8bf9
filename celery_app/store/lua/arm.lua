-- An attempt has started, or (not `starts`) is alive: its deadlines from now on, in milliseconds (0: leave that one as
-- it is). A sign of life only moves the deadline there is: one given back meanwhile is queued, and has none.
-- `note`: the JSON of a heartbeat's progress, or ''. Returns 1, or 0 and changes nothing when this attempt is no longer wanted.
-- keys: open deadlines
-- args: instance:str execution:str seq:str attempt:str close_in:int beat_in:int starts:flag note:str
-- include: time marks
if not is_current(redis.call('HGET', open .. execution, seq), attempt) then return 0 end
local task = execution .. ':' .. seq .. ':' .. attempt .. ':' .. instance
if note ~= '' then redis.call('HSET', open .. execution, 'h' .. seq, note) end
if close_in > 0 then redis.call('ZADD', deadlines, string.format('%.0f', now + close_in), 'c:' .. task) end
if beat_in > 0 then
  local due = string.format('%.0f', now + beat_in)
  if starts then redis.call('ZADD', deadlines, due, 'h:' .. task) else redis.call('ZADD', deadlines, 'XX', due, 'h:' .. task) end
end
if starts then redis.call('ZREM', deadlines, 's:' .. task) end
return 1
