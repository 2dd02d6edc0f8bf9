-- The parts of a commit, each one kind of what a turn asked for.
-- keys: inst hist inbox control open pay timers deadlines
-- include: ready status steps groups ends create queue

local SPILL_AT_ONCE = 1000 -- outcomes of a dissolved group moved by the commit itself

local queues = {} -- key: may it be pushed to
local function checked_queue(key)
  if queues[key] == nil then queues[key] = is_queue(key) end
  return queues[key]
end

local function consume(id, commit)
  if commit.inbox == 1 then
    redis.call('LPOP', inbox .. id)
  elseif commit.inbox then
    redis.call('LTRIM', inbox .. id, commit.inbox, -1)
  end
  if commit.controls then redis.call('LTRIM', control .. id, commit.controls, -1) end
end

local function dissolve(id, execution, gseq)
  local key, g = open .. execution, 'g' .. gseq
  local v = redis.call('HMGET', key, g, g .. 'c', g .. 'd')
  if not v[1] then return end
  if v[2] == v[1] then
    forget_group(key, gseq)
  else
    redis.call('HSET', key, g .. 'x', '1')
  end
  if v[3] ~= '0' then spill(id, execution, gseq, tonumber(v[1]), 0, SPILL_AT_ONCE) end
end

-- A group cancelled whole: its open parts and its counters go. Numbers from `gseq` to the cursor are its own; whichever
-- is shorter is walked, they or what the run has open.
local function drop_group(id, execution, gseq)
  local key, seqs = open .. execution, {}
  local stop = gseq + tonumber(redis.call('HGET', key, 'g' .. gseq .. 'c') or '0')
  if redis.call('HLEN', key) < stop - gseq then
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local seq = string.find(field, '^%d+$') and tonumber(field)
      if seq and seq >= gseq and seq < stop then seqs[#seqs + 1] = field end
    end
  else
    for seq = gseq, stop - 1 do seqs[#seqs + 1] = string.format('%.0f', seq) end
  end
  for _, seq in ipairs(seqs) do
    local value = redis.call('HGET', key, seq)
    if value then
      drop_attempt(execution, seq, value, id)
      forget_step(key, seq)
    end
  end
  forget_group(key, gseq)
end

-- Returns the groups of which parts were closed.
local function close_steps(id, execution, commit)
  local key, touched = open .. execution, {}
  for _, gseq in ipairs(commit.dissolve or {}) do dissolve(id, execution, gseq) end
  for _, gseq in ipairs(commit.drop or {}) do drop_group(id, execution, gseq) end
  for _, seq in ipairs(commit.close or {}) do
    local value = redis.call('HGET', key, seq)
    if value then
      close_field(id, execution, tostring(seq), value, 'cancelled by its parent')
      forget_step(key, seq)
      local gseq = string.match(value, '|g(%d+)$')
      if gseq and not string.find(value, '^%d+|p') and redis.call('HEXISTS', key, 'g' .. gseq) == 1 then
        redis.call('HINCRBY', key, 'g' .. gseq .. 'i', -1)
        touched[#touched + 1] = gseq
      end
    end
  end
  for _, seq in ipairs(commit.untimers or {}) do
    redis.call('ZREM', timers, execution .. ':' .. seq .. ':' .. id)
    redis.call('HDEL', key, seq)
  end
  return touched
end

local function open_groups(execution, commit)
  local key = open .. execution
  for _, n in ipairs(commit.groups or {}) do
    local g = 'g' .. n[1]
    redis.call('HSET', key, g, n[2], g .. 'w', n[3], g .. 'c', n[4], g .. 'i', 0, g .. 'd', 0, g .. 'f', 0, g .. 'p', n[5])
  end
  for _, e in ipairs(commit.emits or {}) do
    local g = 'g' .. e[1]
    redis.call('HSET', key, g .. 'c', e[3])
    redis.call('HDEL', key, g .. 'e')
    local v = redis.call('HMGET', key, g, g .. 'x')
    if v[2] and tonumber(v[1]) == e[3] then forget_group(key, e[1]) end
  end
end

local function open_steps(id, execution, steps)
  local key = open .. execution
  local order, by_queue, in_groups = {}, {}, {}
  for _, m in ipairs(steps) do
    local seq, queue_key, attempt, gseq = m[1], m[2], m[4], m[5]
    if gseq >= 0 then in_groups[gseq] = (in_groups[gseq] or 0) + 1 end
    for _, d in ipairs(m[6]) do
      redis.call('ZADD', deadlines, string.format('%.0f', d[2]),
        table.concat({d[1], execution, string.format('%.0f', seq), attempt, id}, ':'))
    end
    local list = by_queue[queue_key]
    if not list then
      list = {}
      by_queue[queue_key] = list
      order[#order + 1] = queue_key
    end
    list[#list + 1] = m
  end
  for gseq, n in pairs(in_groups) do
    if redis.call('HEXISTS', key, 'g' .. gseq) == 1 then redis.call('HINCRBY', key, 'g' .. gseq .. 'i', n) end
  end
  for _, queue_key in ipairs(order) do
    local list, messages = by_queue[queue_key], {}
    local ordinal = queue_counted(queue_key, #list) - #list
    for i, m in ipairs(list) do
      redis.call('HSET', key, m[1], queued_as(m[4], ordinal + i, queue_key, m[5] >= 0 and '|g' .. m[5] or ''))
      messages[i] = m[3]
    end
    queue_push(queue_key, messages)
  end
end

local function open_timers(id, execution, list)
  for _, t in ipairs(list) do
    redis.call('ZADD', timers, string.format('%.0f', t[2]), execution .. ':' .. t[1] .. ':' .. id)
    redis.call('HSET', open .. execution, t[1], 't')
  end
end

local function open_children(id, execution, list)
  for _, child in ipairs(list) do
    if conflict_of(child) == nil then
      create_instance(child)
      if not child.detached then redis.call('HSET', open .. execution, child.seq or 0, 'c|' .. child.instance) end
    elseif not child.detached then
      redis.call('RPUSH', inbox .. id, child.refused .. ',"at":' .. now_s .. '}')
    end
  end
end

local function send_events(execution, list)
  local undelivered = {}
  for _, send in ipairs(list) do
    local t = redis.call('HMGET', inst .. send.instance, 'status', 'execution', 'stage', 'suspended', 'delayed')
    if not t[1] or ENDED[t[1]] then
      undelivered[#undelivered + 1] = send.instance
    else
      copy_payloads(execution, t[2], send.copies)
      redis.call('RPUSH', inbox .. send.instance, send.event .. ',"at":' .. now_s .. '}')
      make_ready(send.instance, t[3], t[4] or t[5])
    end
  end
  return undelivered
end

-- After all counters have moved: a group whose window shrank without a completion still gets its next one.
local function ask_windows(id, execution, commit, touched)
  for _, e in ipairs(commit.emits or {}) do want_window(id, open .. execution, e[1]) end
  for _, n in ipairs(commit.groups or {}) do want_window(id, open .. execution, n[1]) end
  for _, gseq in ipairs(touched) do want_window(id, open .. execution, gseq) end
end

local function set_texts(id, commit)
  for _, name in ipairs({'custom', 'output', 'failure', 'version'}) do
    if commit[name] then redis.call('HSET', inst .. id, name, commit[name]) end
  end
  if commit.custom_clear then redis.call('HDEL', inst .. id, 'custom') end
end

-- What is left in the inbox when a run ends by continue-as-new: raised events go on to the next run, with the payloads
-- they refer to. Anything else answers a step of the old run, and the next run counts its steps from 0 again: an old
-- completion would close the wrong one. An event's kind comes first in its text, and a quote inside a JSON string is
-- escaped, so neither pattern can match inside a user's text.
local function keep_raised_events(id, from, to)
  for _ = 1, redis.call('LLEN', inbox .. id) do
    local item = redis.call('LPOP', inbox .. id)
    if string.find(item, '^{"k":10[,}]') then
      local field = string.match(item, '"input":"@([^"]+)"')
      if field then copy_payloads(from, to, {{field, field}}) end
      redis.call('RPUSH', inbox .. id, item)
    end
  end
end

local function begin_next_run(id, execution, run)
  close_open(id, execution, 'the parent continued as new')
  keep_raised_events(id, execution, run.execution)
  copy_payloads(execution, run.execution, run.copies)
  redis.call('UNLINK', hist .. id, pay .. execution)
  redis.call('HSET', inst .. id, 'execution', run.execution)
  redis.call('HINCRBY', inst .. id, 'run', 1)
  local carried = run.carried or {}
  for i = #carried, 1, -1 do redis.call('LPUSH', inbox .. id, carried[i]) end
  redis.call('LPUSH', inbox .. id, run.started .. ',"at":' .. now_s .. '}')
end
