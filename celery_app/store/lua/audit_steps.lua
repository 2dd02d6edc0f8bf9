-- Open steps whose message is nowhere: sure at once, because a take marks the step in the same script that pops its
-- message. A queued step remembers its queue and its place in the count of messages that ever came to the tail of it;
-- the list is first in, first out, so when `gone` has reached that place, the message has left. On kombu's own
-- transport it has only left for a worker's memory: there a step is suspect for a while first, and then ever more rarely.
-- keys: open flight beats timers parked parked_body deadlines
-- include: queue marks audit_wakes
-- args: stock:flag most:int

local FIRST, LONGEST = 10000, 300000 -- milliseconds between two times that a step's message is sent again
local FLIGHTS, FLIGHT_MOST = 4, 500 -- flight records read in one call; messages in one that is read

local suspects, overflow = {}, false
local queues_seen, flights_seen, flights_read, holders = {}, {}, 0, {}

local function suspect(kind, id, execution, seq, state, count)
  if #suspects >= most then
    overflow = true
  else
    suspects[#suspects + 1] = {kind, id, execution, seq, state, count}
  end
end

-- `l{seq}` holds how often the message of this attempt was sent again and when it was last (stock: first found gone).
local function lost(kind, id, execution, seq, state)
  local noted = redis.call('HGET', open .. execution, 'l' .. seq)
  local count, at = string.match(noted or '0 0', '^(%d+) (%d+)$')
  if stock and not noted then
    redis.call('HSET', open .. execution, 'l' .. seq, '0 ' .. now_s)
    return
  end
  local times = tonumber(count) - (stock and 0 or 1)
  local wait = times < 0 and 0 or math.min(LONGEST, FIRST * 2 ^ times)
  if now - tonumber(at) >= wait then suspect(kind, id, execution, seq, state, tonumber(count)) end
end

local function check_queued(id, execution, seq, state)
  local own = string.sub(state, 1, #state - #tail_of(state))
  local ordinal, queue_key = string.match(own, '^%d+|q|(-?%d+)|(.*)|$')
  if not ordinal then -- of an older release: the caller finds its queue out
    if string.find(own, '^%d+$') then lost('message', id, execution, seq, state) end
    return
  end
  local queue = queues_seen[queue_key]
  if not queue then
    queue = {gone = -math.huge, length = 1}
    if is_queue(queue_key) then queue = {gone = queue_gone(queue_key), length = redis.call('LLEN', queue_key)} end
    queues_seen[queue_key] = queue
  end
  if queue.length == 0 or queue.gone >= tonumber(ordinal) then lost('message', id, execution, seq, state) end
end

-- The steps in a flight record; nil when it is not read now. With many workers, others are read in the next seconds.
local function steps_held(incarnation)
  local key = flight .. incarnation
  if flights_seen[key] == nil then
    local many = redis.call('ZCARD', beats) > FLIGHTS
    local turn = ((tonumber(string.sub(incarnation, -4), 16) or 0) + math.floor(now / 1000)) % 4
    if flights_read >= FLIGHTS or (many and turn ~= 0) or redis.call('HLEN', key) > FLIGHT_MOST then return nil end
    flights_read = flights_read + 1
    local held = {}
    for _, body in ipairs(redis.call('HVALS', key)) do
      local execution, seq, attempt = step_of(body)
      if seq then held[execution .. ':' .. seq .. ':' .. attempt] = true end
    end
    flights_seen[key] = held
  end
  return flights_seen[key]
end

local function check_running(id, execution, seq, state)
  local holder = holder_of(state)
  if not holder or string.sub(holder, 1, 6) == 'stock-' then return end
  if holders[holder] == nil then holders[holder] = redis.call('ZSCORE', beats, holder) or false end
  if holders[holder] then
    local held = steps_held(holder)
    if held and not held[execution .. ':' .. seq .. ':' .. string.match(state, '^%d+')] then
      lost('run', id, execution, seq, state)
    end
  elseif redis.call('EXISTS', flight .. holder) == 1 then
    redis.call('ZADD', beats, 0, holder) -- nobody beats for it: let the sweep give back what it holds
    holders[holder] = '0'
    mended_one('flight', id, seq)
  else
    lost('run', id, execution, seq, state)
  end
end

local function check_parked(id, execution, seq, state)
  local member = execution .. ':' .. seq .. ':' .. string.match(state, '^%d+') .. ':' .. id
  if redis.call('ZSCORE', parked, member) then return end
  if redis.call('HEXISTS', parked_body, member) == 1 then
    redis.call('ZADD', parked, now_s, member)
    mended_one('retry', id, seq)
  else
    lost('retry', id, execution, seq, state)
  end
end

local function check_field(id, execution, field, value)
  local gseq = string.match(field, '^g(%d+)$')
  if gseq then
    check_group(id, execution, gseq)
  elseif not string.find(field, '^%d+$') then
    return
  elseif value == 't' then
    if not redis.call('ZSCORE', timers, execution .. ':' .. field .. ':' .. id) then
      suspect('timer', id, execution, field, value, 0)
    end
  elseif string.sub(value, 1, 2) == 'c|' then
    check_child(id, execution, field, string.sub(value, 3))
  elseif string.find(value, '^%d+|r|') then
    check_running(id, execution, field, value)
  elseif string.find(value, '^%d+|d|') then -- given up, waits for its judge
    local member = 'l:' .. execution .. ':' .. field .. ':' .. string.match(value, '^%d+') .. ':' .. id
    if redis.call('ZADD', deadlines, 'NX', now_s, member) == 1 then mended_one('judge', id, field) end
  elseif string.find(value, '^%d+|p') then
    check_parked(id, execution, field, value)
  else
    check_queued(id, execution, field, value)
  end
end
