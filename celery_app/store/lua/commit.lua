-- Turns: history, inbox, steps, timers, children, events to others, messages and status. Each one all or nothing, and none
-- depends on another: several in one call only save Redis and its clients the way. Applied twice (same claim) a turn is answered
-- and changes nothing. `c` is records.Commit. The reply to one turn is its own; to several, a list, with the text of a refusal.
-- args: turns:pack
-- include: commit_steps

local function apply(c)
  -- Fence.
  local id, execution = c.instance, c.execution
  local r = redis.call('HMGET', inst .. id, 'claim', 'execution', 'status', 'last', 'stage', 'suspended', 'created',
    'suspect', 'crashes', 'waiting', 'parent', 'parent_execution', 'parent_seq', 'staged')
  local status, suspended = r[3], r[6]
  if not status then return redis.error_reply('GONE instance ' .. id .. ' is gone') end
  if r[1] ~= c.claim then
    if r[4] == c.claim then return {r[5] == '1' and 1 or 0, {}, 1} end
    return redis.error_reply('FENCED instance ' .. id .. ' is no longer held by claim ' .. c.claim)
  end
  local length = redis.call('LLEN', hist .. id)
  if r[2] ~= execution or length ~= c.base then
    return redis.error_reply('FENCED instance ' .. id .. ' has run ' .. r[2] .. ' with ' .. length
      .. ' events, the turn was computed on ' .. execution .. ' with ' .. c.base)
  end
  if c.staged and not (r[14] and string.match(r[14], '^(%S+) %d+ all$') == c.claim) then
    return redis.error_reply('GONE the payloads staged for the turn of ' .. id .. ' are gone: Redis went back in time')
  end

  -- Check.
  local messages = c.messages or {}
  for _, m in ipairs(messages) do
    if not checked_queue(m[2]) then
      return redis.error_reply('CLASH the key ' .. m[2] .. ' is to be a queue but holds another type')
    end
  end
  for _, e in ipairs(c.emits or {}) do
    local cursor = redis.call('HGET', open .. execution, 'g' .. e[1] .. 'c')
    if tonumber(cursor or '-1') ~= e[2] then
      return redis.error_reply('FENCED group ' .. e[1] .. ' of ' .. id .. ' is emitted up to ' .. tostring(cursor)
        .. ', not ' .. e[2])
    end
  end

  -- Write.
  redis.call('HSET', inst .. id, 'claim', '', 'last', c.claim, 'updated', now_s)
  redis.call('SREM', claims .. string.match(c.claim, '^(.*)%.%d+$'), id)
  if r[8] or r[9] or r[10] or r[14] then
    redis.call('HDEL', inst .. id, 'suspect', 'crashes', 'waiting', 'alone', 'staged')
  end
  consume(id, c)
  if not c.next_run then push_all(hist .. id, c.events or {}) end
  open_groups(execution, c)
  open_steps(id, execution, messages)
  open_timers(id, execution, c.timers or {})
  open_children(id, execution, c.children or {})
  local touched = close_steps(id, execution, c) -- after opening: a turn may close what it opened itself
  local undelivered = send_events(execution, c.sends or {})
  for _, text in ipairs(c.own or {}) do redis.call('RPUSH', inbox .. id, text .. ',"at":' .. now_s .. '}') end
  ask_windows(id, execution, c, touched)
  set_texts(id, c)

  local new = c.status or (status == 'Pending' and 'Running' or status)
  if ENDED[new] then
    redis.call('HSET', inst .. id, 'status', new, 'stage', '0')
    redis.call('HDEL', inst .. id, 'suspended')
    end_instance(id, execution, status, new, r[7], nil, 'the parent ended: ' .. new)
    if r[11] and c.parent_event then
      tell_parent(id, r[11], r[12], r[13], c.parent_event .. ',"at":' .. now_s .. '}', execution, c.parent_copies)
    end
    return {0, undelivered, 0}
  end
  if c.next_run then begin_next_run(id, execution, c.next_run) end
  local ready_again = has_work(id, suspended)
  local stage = ready_again and '1' or '0'
  if new ~= status then
    redis.call('HSET', inst .. id, 'status', new, 'stage', stage)
    index_status(id, status, new, r[7])
  else
    redis.call('HSET', inst .. id, 'stage', stage)
  end
  if ready_again then
    redis.call('ZADD', ready, now_s, id)
    wake_up()
  end
  return {ready_again and 1 or 0, undelivered, 0}
end

if #turns == 1 then return apply(turns[1]) end
local replies = {}
for i, c in ipairs(turns) do
  local reply = apply(c)
  replies[i] = reply.err or reply
end
return replies
