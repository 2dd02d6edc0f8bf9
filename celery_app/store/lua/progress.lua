-- What an instance waits for: open steps and group counters, about `limit` fields of them, with due times.
-- keys: inst open timers parked
-- args: instance:str limit:int
local execution = redis.call('HGET', inst .. instance, 'execution')
if not execution then return redis.error_reply('NOTFOUND no instance has the id ' .. instance) end
local key = open .. execution
local flat
if redis.call('HLEN', key) <= limit then
  flat = redis.call('HGETALL', key)
else
  flat = redis.call('HSCAN', key, 0, 'COUNT', limit)[2]
end
local out = {}
for i = 1, #flat, 2 do
  local field, value = flat[i], flat[i + 1]
  local due = false
  if value == 't' then
    due = redis.call('ZSCORE', timers, execution .. ':' .. field .. ':' .. instance)
  elseif string.find(field, '^%d+$') and string.find(value, '^%d+|p') then
    due = redis.call('ZSCORE', parked, execution .. ':' .. field .. ':' .. string.match(value, '^%d+') .. ':' .. instance)
  end
  out[#out + 1] = {field, value, due or ''}
end
return {execution, out}
