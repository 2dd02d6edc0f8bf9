-- An attempt starts on kombu's own transport, whose workers hold no flight record: marked so that another copy of its
-- message does not run beside it. One that a dead worker left comes back `again` (redelivered), and runs.
-- The same `token` twice is one start: the reply to the first was lost.
-- keys: open
-- args: execution:str seq:str attempt:str token:str again:flag
-- include: time marks
local state = redis.call('HGET', open .. execution, seq)
if not is_current(state, attempt) then return 0 end
local holder, mine = holder_of(state), 'stock-' .. token
if holder and holder ~= mine and not again then return 0 end
redis.call('HSET', open .. execution, seq, attempt .. '|r|' .. mine .. '|' .. now_s .. tail_of(state))
return 1
