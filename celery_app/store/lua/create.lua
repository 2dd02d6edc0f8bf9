-- A new instance: from a client, a parent's commit, a restart or a queue message.
-- keys: inst inbox below pay timers idem idx_created idx_id idx_name idx_tag idx_status
-- include: time ready status ends

local IDEMPOTENCY_LIFE = 86400 -- seconds

-- What stands in the way: 'same' (this very request was applied), 'use' (the caller takes what is there)
-- or 'exists'; nil if nothing does. Reads only.
local function conflict_of(req)
  local r = redis.call('HMGET', inst .. req.instance, 'status', 'execution', 'born')
  if not r[1] then return nil end
  if r[2] == req.execution or r[3] == req.execution then return 'same', r[2] end
  if ENDED[r[1]] then return nil end
  if req.on_conflict == 'use_existing' then return 'use', r[2] end
  if req.on_conflict == 'terminate_existing' then return nil end
  return 'exists', r[2]
end

local function index_new(id, req, status)
  redis.call('ZADD', idx_status .. status, now_s, id)
  redis.call('ZADD', idx_name .. req.name, now_s, id)
  redis.call('ZADD', idx_created, now_s, id)
  redis.call('ZADD', idx_id, 0, id)
  for key, value in pairs(req.tags or {}) do
    redis.call('ZADD', idx_tag .. key .. '=' .. value, now_s, id)
  end
end

-- Make the instance; `conflict_of` has let it pass. What ended under this id is replaced.
local function create_instance(req)
  local id = req.instance
  local kept = {} -- read before what they are copied from may be replaced
  for _, pair in ipairs(req.copies or {}) do
    local blob = redis.call('HGET', pay .. req.copy_from, pair[1])
    if blob then kept[#kept + 1] = {pair[2], blob} end
  end
  local old = redis.call('HGET', inst .. id, 'status')
  if old then
    redis.call('HSET', inst .. id, 'updated', now_s) -- without memory this refuses, before anything is removed
    if not ENDED[old] then terminate_instance(id, 'replaced by a new start') end
    remove_instance(id)
  end
  local delayed = req.start_at and req.start_at > now
  redis.call('HSET', inst .. id, 'name', req.name, 'version', req.version or '', 'execution', req.execution,
    'born', req.execution, 'status', 'Pending', 'stage', '0', 'claim', '', 'created', now_s, 'updated', now_s,
    'tags', next(req.tags or {}) and cjson.encode(req.tags) or '{}', 'run', '0')
  if req.parent then
    redis.call('SADD', below .. req.parent, id)
    redis.call('HSET', inst .. id, 'parent', req.parent, 'parent_execution', req.parent_execution or '',
      'parent_seq', req.parent_seq or 0, 'close', req.close or 'terminate')
  end
  if req.reason then redis.call('HSET', inst .. id, 'reason', req.reason) end
  for _, pair in ipairs(req.payloads or {}) do redis.call('HSET', pay .. req.execution, pair[1], pair[2]) end
  for _, pair in ipairs(kept) do redis.call('HSET', pay .. req.execution, pair[1], pair[2]) end
  redis.call('RPUSH', inbox .. id, req.started .. ',"at":' .. now_s .. '}')
  index_new(id, req, 'Pending')
  if delayed then
    local due = string.format('%.0f', req.start_at)
    redis.call('HSET', inst .. id, 'delayed', due)
    redis.call('ZADD', timers, due, ':start:' .. id)
  else
    make_ready(id, '0', false)
  end
  if req.idempotency_key then
    redis.call('SET', idem .. req.idempotency_key, id, 'EX', IDEMPOTENCY_LIFE)
  end
end
