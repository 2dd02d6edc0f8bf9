-- The outcome of an activity attempt: a success of any attempt, a failure only of the current one.
-- A single step puts its event into the inbox. A part of a group is stored by index and counted; the last one
-- puts GroupCompleted there. `text` is open text: of the event, or of the PartOutcome when index >= 0.
-- args: instance:str execution:str seq:str attempt:str success:flag text:str index:int payloads:pack
-- include: ready steps groups
local key = open .. execution

-- Fence and check. Every key below is ours, so no type can be wrong.
local v = redis.call('HMGET', key, seq, 'f' .. seq)
local value = v[1]
if not value or not string.find(value, '^%d') then return 'GONE' end
if not success and string.match(value, '^%d+') ~= attempt then return 'STALE' end
local record = redis.call('HMGET', inst .. instance, 'stage', 'execution', 'suspended')
if record[2] ~= execution then return 'GONE' end
local gseq = string.match(value, '|g(%d+)$')
if (gseq == nil) ~= (index < 0) then return redis.error_reply('GONE step ' .. seq .. ' is not of that shape') end

-- Write. Each first write refuses when memory is out.
for _, pair in ipairs(payloads) do redis.call('HSET', pay .. execution, pair[1], pair[2]) end
local awake = true
if not gseq then
  redis.call('RPUSH', inbox .. instance, text .. attempts_text(v[2]) .. ',"at":' .. now_s .. '}')
else
  awake = join_part(instance, execution, gseq, {
    seq = seq, index = index, success = success, text = text, attempts = attempts_text(v[2]),
    held_slot = not string.find(value, '^%d+|p'),
  })
end
forget_step(key, seq)
drop_attempt(execution, seq, value, instance)
if awake then make_ready(instance, record[1], record[3]) end
return 'OK'
