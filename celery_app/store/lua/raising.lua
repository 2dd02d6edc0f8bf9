-- An event for an instance that runs; once per dedup key. `text` is open text. An error reply, 0 (known key) or 1.
-- keys: inst inbox dedup pay
-- args: instance:str text:str dedup_key:str payloads:pack
-- args: instance:str text:str dedup_key:str payloads:pack
-- include: ready status
local INBOX_LIMIT = 100000

local function raise()
  local r = redis.call('HMGET', inst .. instance, 'status', 'execution', 'stage', 'suspended', 'delayed')
  if not r[1] then return redis.error_reply('NOTFOUND no instance has the id ' .. instance) end
  -- Asked first: sent again after a lost reply, the event may be what ended the instance.
  if dedup_key ~= '' and redis.call('SISMEMBER', dedup .. instance, dedup_key) == 1 then return 0 end
  if ENDED[r[1]] then return redis.error_reply('ENDED instance ' .. instance .. ' has ended: ' .. r[1]) end
  if redis.call('LLEN', inbox .. instance) >= INBOX_LIMIT then
    return redis.error_reply('LIMIT instance ' .. instance .. ' has ' .. INBOX_LIMIT .. ' events it has not taken')
  end
  for _, pair in ipairs(payloads) do redis.call('HSET', pay .. r[2], pair[1], pair[2]) end
  redis.call('RPUSH', inbox .. instance, text .. ',"at":' .. now_s .. '}')
  if dedup_key ~= '' then redis.call('SADD', dedup .. instance, dedup_key) end
  make_ready_now(instance, r[3], r[4] or r[5])
  return 1
end
