-- Take messages of a user's list for a listener, those given back first; producers LPUSH, so the oldest is at the
-- tail. Numbers count up from n_base.
-- keys: beats
-- args: listener:str queue:str n_base:int limit:int
-- include: time triggers
local beat = redis.call('ZSCORE', beats, listener)
if not beat or tonumber(beat) <= now then
  return redis.error_reply('FENCED listener ' .. listener .. ' does not beat; beat first, or take a new incarnation')
end
if not is_queue(queue) then
  return redis.error_reply('CLASH the key ' .. queue .. ' is to be a queue but holds another type than a list')
end
local out = {}
for n = 0, limit - 1 do
  local number = string.format('%.0f', n_base + n)
  local tries, id, message = '0', listener .. '.' .. number, nil
  local body = redis.call('LINDEX', again .. queue, 0)
  if body then
    tries, id, message = string.match(body, '^(%d+)\n([^\n]*)\n(.*)$')
  else
    message = redis.call('LINDEX', queue, -1)
    if not message then break end
  end
  redis.call('HSET', trig .. listener, number, tries .. '\n' .. id .. '\n' .. queue .. '\n' .. message)
  if body then redis.call('LPOP', again .. queue) else redis.call('RPOP', queue) end
  out[#out + 1] = {number, tries, message, id}
end
return out
