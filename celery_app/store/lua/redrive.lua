-- Poisoned messages back to the end of their queue, oldest first.
-- args: queue:str limit:int
-- include: queue
local poison = queue .. '-poison'
if not is_queue(poison) or not is_queue(queue) then
  return redis.error_reply('CLASH ' .. queue .. ' or ' .. poison .. ' holds another type than a list')
end
local moved = 0
while moved < limit do
  local entry = redis.call('LINDEX', poison, -1)
  if not entry then break end
  redis.call('LPUSH', queue, string.match(entry, '^[^\n]*\n(.*)$') or entry)
  redis.call('RPOP', poison)
  moved = moved + 1
end
return moved
