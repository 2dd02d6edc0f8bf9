-- keys: beats procs open
-- args: incarnation:str lease:int info:str join:flag running:pack
-- include: heard marks
-- The process lives: renews the lease of its incarnation. Only the first beat may join. Of the task ids in `running` it
-- returns those that are revoked: the step is closed, or at another attempt.
local score = redis.call('ZSCORE', beats, incarnation)
if (not score and not join) or (score and tonumber(score) <= 0) then
  return redis.error_reply('FENCED the lease of incarnation ' .. incarnation .. ' lapsed and its work was given to others')
end
note_life()
redis.call('ZADD', beats, string.format('%.0f', now + lease), incarnation)
if info ~= '' then redis.call('HSET', procs, incarnation, info) end

local revoked = {}
for _, id in ipairs(running) do
  local execution, seq, attempt = string.match(id, '^(%x+):(%d+):(%d+):')
  if execution and not is_current(redis.call('HGET', open .. execution, seq), attempt) then
    revoked[#revoked + 1] = id
  end
end
return revoked
