-- The end of a run or of an instance, shared by commit, terminate, purge and the sweep.
-- keys: inst hist inbox control below open pay claims timers closing ready dedup idx_created idx_id idx_name idx_tag ended
-- include: time ready status steps

local CLEAN_AT_ONCE = 500 -- open fields; more are left to the sweep under another name

-- What happened to the parent happens to the child: one that is to be terminated with a parent that was cancelled is
-- cancelled, so that it can undo its work too. `born` names the child over continue-as-new, but not its replacement.
local function close_child(parent, child, execution, reason)
  local r = redis.call('HMGET', inst .. child, 'parent_execution', 'close', 'status', 'born')
  if r[1] ~= execution or ENDED[r[3]] or (r[2] ~= 'terminate' and r[2] ~= 'cancel') then return end
  local verb = redis.call('HGET', inst .. parent, 'status') == 'Cancelled' and 'cancel' or r[2]
  redis.call('RPUSH', closing, table.concat({verb, r[4], child, reason}, '\n'))
end

local function close_field(id, execution, field, value, reason)
  if not string.find(field, '^%d+$') then return end
  if value == 't' then
    redis.call('ZREM', timers, execution .. ':' .. field .. ':' .. id)
  elseif string.sub(value, 1, 2) == 'c|' then
    close_child(id, string.sub(value, 3), execution, reason)
  else
    drop_attempt(execution, field, value, id)
  end
end

-- Everything open of a run that is over. A late completion finds no field, so it changes nothing.
local function close_open(id, execution, reason)
  local key = open .. execution
  local n = redis.call('HLEN', key)
  if n > CLEAN_AT_ONCE then
    redis.call('RENAME', key, open .. '~' .. execution)
    redis.call('RPUSH', closing, table.concat({'clean', execution, id, reason}, '\n'))
  elseif n > 0 then
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do close_field(id, execution, all[i], all[i + 1], reason) end
    redis.call('DEL', key)
  end
end

-- Payloads of one run that another needs: pairs of fields.
local function copy_payloads(from, to, pairs_of_fields)
  for _, pair in ipairs(pairs_of_fields or {}) do
    local blob = redis.call('HGET', pay .. from, pair[1])
    if blob then redis.call('HSET', pay .. to, pair[2], blob) end
  end
end

-- Tell the parent, if it still waits for exactly this child.
local function tell_parent(id, parent, execution, seq, text, own_execution, copies)
  local key = open .. execution
  if redis.call('HGET', key, seq) ~= 'c|' .. id then return end
  local p = redis.call('HMGET', inst .. parent, 'stage', 'execution', 'suspended')
  if p[2] ~= execution then return end
  copy_payloads(own_execution, execution, copies)
  redis.call('RPUSH', inbox .. parent, text)
  redis.call('HDEL', key, seq)
  make_ready(parent, p[1], p[3])
end

-- The part of an end that is the same for every way of ending. The record has its new status already.
local function end_instance(id, execution, old, new, created, claim, reason)
  index_status(id, old, new, created)
  redis.call('UNLINK', inbox .. id, control .. id)
  redis.call('ZREM', ready, id)
  redis.call('ZREM', timers, ':start:' .. id)
  local holder = claim and string.match(claim, '^(.*)%.%d+$')
  if holder then redis.call('SREM', claims .. holder, id) end
  close_open(id, execution, reason)
  redis.call('PUBLISH', ended .. id, new)
end

-- Hard end of a running instance, whoever holds it.
local function terminate_instance(id, reason)
  local r = redis.call('HMGET', inst .. id, 'execution', 'status', 'created', 'claim', 'parent',
    'parent_execution', 'parent_seq')
  redis.call('HSET', inst .. id, 'status', 'Terminated', 'stage', '0', 'claim', '', 'reason', reason, 'updated', now_s)
  redis.call('HDEL', inst .. id, 'suspended', 'delayed', 'suspect', 'alone', 'crashes', 'waiting', 'held')
  local shown = reason == '' and '' or ',"reason":' .. cjson.encode(reason)
  -- A run that nobody took yet has its start, and so its input, still in the inbox.
  local start = redis.call('EXISTS', hist .. id) == 0 and redis.call('LINDEX', inbox .. id, 0)
  if start then redis.call('RPUSH', hist .. id, start) end
  redis.call('RPUSH', hist .. id, '{"k":19' .. shown .. ',"at":' .. now_s .. '}')
  end_instance(id, r[1], r[2], 'Terminated', r[3], r[4], reason)
  if r[5] and r[5] ~= '' then
    local message = 'sub-orchestration ' .. id .. ' was terminated' .. (reason == '' and '' or ': ' .. reason)
    tell_parent(id, r[5], r[6], r[7], '{"k":14,"seq":' .. r[7]
      .. ',"failure":{"error_type":"celeriac.OrchestrationTerminated","message":' .. cjson.encode(message)
      .. '},"at":' .. now_s .. '}')
  end
end

-- Every key and index entry of an instance that has ended, except the list of its children: who takes its place under
-- this id inherits them, a purge drops it.
local function remove_instance(id)
  local r = redis.call('HMGET', inst .. id, 'execution', 'status', 'name', 'tags', 'parent')
  if r[5] and r[5] ~= '' then redis.call('SREM', below .. r[5], id) end
  redis.call('ZREM', idx_status .. r[2], id)
  redis.call('ZREM', idx_name .. r[3], id)
  redis.call('ZREM', idx_created, id)
  redis.call('ZREM', idx_id, id)
  for key, value in pairs(cjson.decode(r[4] or '{}')) do
    redis.call('ZREM', idx_tag .. key .. '=' .. value, id)
  end
  redis.call('UNLINK', hist .. id, pay .. r[1], dedup .. id, inbox .. id, control .. id, inst .. id)
end
