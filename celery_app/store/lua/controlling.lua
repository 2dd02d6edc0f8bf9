-- The verbs of control.lua, also used by the sweep for the children of an ended parent.
-- keys: inst hist inbox control ready timers idx_status
-- include: time ready status

local function reason_text(kind, reason)
  return '{"k":' .. kind .. (reason == '' and '' or ',"reason":' .. cjson.encode(reason)) .. ',"at":' .. now_s .. '}'
end

local function suspend(id, reason)
  local r = redis.call('HMGET', inst .. id, 'status', 'stage', 'suspended', 'created')
  if r[3] then return 0 end
  redis.call('HSET', inst .. id, 'suspended', '1', 'status', 'Suspended', 'reason', reason, 'updated', now_s)
  index_status(id, r[1], 'Suspended', r[4])
  if redis.call('LLEN', hist .. id) > 0 or r[2] == '2' then
    redis.call('RPUSH', control .. id, reason_text(15, reason))
    make_ready(id, r[2], false)
  elseif r[2] == '1' then
    redis.call('HSET', inst .. id, 'stage', '0')
    redis.call('ZREM', ready, id)
  end
  return 1
end

-- Suspended by the engine. Its code must not be touched before somebody resumes it, not even to record this: so the
-- event waits in the record (`held`), and goes into the history together with the one that resumes.
local function quarantine(id, reason)
  local r = redis.call('HMGET', inst .. id, 'status', 'suspended', 'created')
  redis.call('HSET', inst .. id, 'stage', '0')
  redis.call('ZREM', ready, id)
  local event = not r[2] and redis.call('LLEN', hist .. id) > 0 and reason_text(15, reason) or ''
  redis.call('HSET', inst .. id, 'held', event)
  if r[2] then return end
  redis.call('HSET', inst .. id, 'suspended', '1', 'status', 'Suspended', 'reason', reason, 'updated', now_s)
  index_status(id, r[1], 'Suspended', r[3])
end

-- Is the newest control of this kind?
local function told_last(id, kind)
  return string.sub(redis.call('LINDEX', control .. id, -1) or '', 1, 7) == '{"k":' .. kind
end

local function resume(id, reason)
  local r = redis.call('HMGET', inst .. id, 'stage', 'suspended', 'created', 'delayed', 'held')
  if not r[2] then
    if r[1] == '1' then make_ready_now(id, '1', r[4]) end -- it waits: try it now
    return 0
  end
  local begun = redis.call('LLEN', hist .. id) > 0
  local status = (begun or redis.call('HGET', inst .. id, 'run') ~= '0') and 'Running' or 'Pending'
  redis.call('HSET', inst .. id, 'status', status, 'reason', reason, 'updated', now_s)
  redis.call('HDEL', inst .. id, 'suspended', 'crashes', 'waiting', 'held') -- resumed: it may try again as often
  index_status(id, 'Suspended', status, r[3])
  if r[5] and r[5] ~= '' then redis.call('RPUSH', control .. id, r[5]) end
  -- A suspension of the first claim of a run may be waiting there still, if nothing came of that claim.
  if begun or r[1] == '2' or told_last(id, 15) then redis.call('RPUSH', control .. id, reason_text(16, reason)) end
  if has_work(id, false) then make_ready_now(id, r[1], r[4]) end
  return 1
end

-- Asked for already, it still resumes what was suspended since: the code has to see the cancellation.
local function cancel(id, reason)
  local event = reason_text(25, reason)
  local stage = redis.call('HGET', inst .. id, 'stage')
  if redis.call('LLEN', hist .. id) == 0 and stage ~= '2' then
    local behind = redis.call('LINDEX', inbox .. id, 1)
    if behind and string.sub(behind, 1, 7) == '{"k":25' then return resume(id, reason) end
    redis.call('HSET', inst .. id, 'reason', reason, 'updated', now_s)
    redis.call('LINSERT', inbox .. id, 'AFTER', redis.call('LINDEX', inbox .. id, 0), event)
    redis.call('HDEL', inst .. id, 'delayed')
    redis.call('ZREM', timers, ':start:' .. id)
    if resume(id, reason) == 0 then make_ready_now(id, stage, false) end
    return 1
  end
  if told_last(id, 25) then return resume(id, reason) end
  redis.call('HSET', inst .. id, 'reason', reason, 'updated', now_s)
  resume(id, reason)
  redis.call('RPUSH', control .. id, event)
  make_ready_now(id, redis.call('HGET', inst .. id, 'stage'), false)
  return 1
end
