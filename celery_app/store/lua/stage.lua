-- Put payloads aside for a run that goes on; the commit under the same claim that refers to them follows. Fenced like it:
-- who lost the claim must not write over what the next claimant staged under the same names and committed.
-- A turn's calls are numbered and `staged` in the record counts them, so that a commit finds all of them or none to be there:
-- Redis may go back in time between two of them.
-- keys: inst pay
-- args: instance:str execution:str claim:str part:int last:flag payloads:pack
-- include: status
local r = redis.call('HMGET', inst .. instance, 'execution', 'status', 'claim', 'staged')
if r[1] ~= execution or ENDED[r[2]] then
  return redis.error_reply('GONE instance ' .. instance .. ' no longer runs as ' .. execution)
end
if r[3] ~= claim then
  return redis.error_reply('FENCED instance ' .. instance .. ' is no longer held by claim ' .. claim)
end
local whose, done = string.match(r[4] or '', '^(%S+) (%d+)')
done = whose == claim and tonumber(done) or 0
if part > done + 1 then
  return redis.error_reply('FENCED what instance ' .. instance .. ' had staged before is gone: Redis went back in time')
end
if part > done then
  redis.call('HSET', inst .. instance, 'staged', claim .. ' ' .. part .. (last and ' all' or ''))
end
for _, pair in ipairs(payloads) do redis.call('HSET', pay .. execution, pair[1], pair[2]) end
return #payloads
