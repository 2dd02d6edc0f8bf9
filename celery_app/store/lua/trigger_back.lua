-- A try failed: the message is taken again later, or moves to the poison list after max_tries of them.
-- `reason` is one line of JSON; a poisoned entry is that line, newline, and the message as it came.
-- args: listener:str number:str max_tries:int reason:str strike:flag
-- include: triggers
local body = redis.call('HGET', trig .. listener, number)
if not body then return 'GONE' end
local tries, id, queue, message = parse_taken(body)
if strike then tries = tries + 1 end
local done = 'AGAIN'
if tries >= max_tries and strike then
  local poison = queue .. '-poison'
  if not is_queue(poison) then
    return redis.error_reply('CLASH the key ' .. poison .. ' is to be a list but holds another type')
  end
  redis.call('LPUSH', poison, reason .. '\n' .. message)
  done = 'POISON'
else
  to_again(queue, tries, id, message)
end
redis.call('HDEL', trig .. listener, number)
return done
