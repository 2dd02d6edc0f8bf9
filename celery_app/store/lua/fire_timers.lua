-- Durable timers and delayed starts that are due.
-- keys: timers
-- args: limit:int
-- include: ready
-- include: steps
local due = redis.call('ZRANGEBYSCORE', timers, '-inf', now_s, 'LIMIT', 0, limit)
local fired = 0
for _, member in ipairs(due) do
  local execution, seq, id = string.match(member, '^(%x*):(%w+):(.*)$')
  local r = redis.call('HMGET', inst .. id, 'stage', 'execution', 'suspended', 'delayed')
  if execution == '' then
    if r[4] then
      make_ready(id, r[1], r[3])
      redis.call('HDEL', inst .. id, 'delayed')
      fired = fired + 1
    end
    redis.call('ZREM', timers, member)
  elseif r[2] == execution and redis.call('HGET', open .. execution, seq) == 't' then
    redis.call('RPUSH', inbox .. id, '{"k":8,"seq":' .. seq .. ',"at":' .. now_s .. '}')
    redis.call('ZREM', timers, member)
    redis.call('HDEL', open .. execution, seq)
    make_ready(id, r[1], r[3])
    fired = fired + 1
  else
    redis.call('ZREM', timers, member)
  end
end
local first = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')
return {fired, first[2] and string.format('%.0f', tonumber(first[2])) or '0'}
