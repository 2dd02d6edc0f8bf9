-- Claim ready instances, oldest first: record the claimant, return what is to be applied.
-- keys: inst hist inbox control ready claims beats
-- args: incarnation:str n_base:int limit:int
-- include: time

local INBOX_MOST = 1000
local BYTES_MOST = 4 * 1024 * 1024 -- of inbox items in one reply; the instance that passes it is still returned
local DRAIN_AFTER = 1000 -- a suspect that waited so long makes the claimant finish what it holds

-- Fence.
local beat = redis.call('ZSCORE', beats, incarnation)
if not beat or tonumber(beat) <= now then
  return redis.error_reply('FENCED incarnation ' .. incarnation .. ' does not beat; beat first, or take a new one')
end

-- Check.
local mine = claims .. incarnation
local held = redis.call('SCARD', mine)
if held == 1 and redis.call('HGET', inst .. redis.call('SRANDMEMBER', mine), 'alone') then return {} end

local out, taken, stale, bytes = {}, {}, {}, 0

local function read_inbox(id)
  local items = redis.call('LRANGE', inbox .. id, 0, 99)
  while true do
    local n = #items
    for i = math.max(1, n - 99), n do bytes = bytes + #items[i] end
    if n % 100 ~= 0 or n == 0 or n >= INBOX_MOST or bytes > BYTES_MOST then return items end
    local more = redis.call('LRANGE', inbox .. id, n, n + 99)
    if #more == 0 then return items end
    for i = 1, #more do items[n + i] = more[i] end
  end
end

-- Write.
local ids = redis.call('ZRANGEBYSCORE', ready, '-inf', now_s, 'LIMIT', 0, math.min(limit, 1000))
for _, id in ipairs(ids) do
  local key = inst .. id
  local r = redis.call('HMGET', key, 'execution', 'name', 'version', 'status', 'suspended', 'run', 'parent',
    'crashes', 'suspect', 'stage', 'parent_seq', 'last')
  local suspect = r[9] == '1'
  if r[10] ~= '1' then
    stale[#stale + 1] = id
  elseif r[5] and redis.call('LLEN', hist .. id) == 0 then
    redis.call('HSET', key, 'stage', '0') -- suspended before it began: resume makes it ready
    stale[#stale + 1] = id
  elseif suspect and (held > 0 or #taken > 0) then
    if #taken == 0 and now - tonumber(redis.call('ZSCORE', ready, id)) > DRAIN_AFTER then break end
  else
    local claim = incarnation .. '.' .. string.format('%.0f', n_base + #taken)
    if suspect then
      redis.call('HSET', key, 'stage', '2', 'claim', claim, 'alone', '1')
    else
      redis.call('HSET', key, 'stage', '2', 'claim', claim)
    end
    taken[#taken + 1] = id
    local length = redis.call('LLEN', hist .. id)
    local items, left = {}, 0
    if not r[5] then
      items = read_inbox(id)
      left = #items >= 100 and redis.call('LLEN', inbox .. id) - #items or 0
    end
    local controls = length > 0 and redis.call('LRANGE', control .. id, 0, 99) or {}
    out[#out + 1] = {id, claim, r[1], r[2], r[3], r[4], r[5] or '', r[6], r[7] or '', r[8] or '0',
      suspect and 1 or 0, length, controls, items, left, r[11] or '0',
      r[12] or ''}
    if suspect or bytes > BYTES_MOST then break end
  end
end
if #taken > 0 then
  redis.call('SADD', mine, unpack(taken))
  redis.call('ZREM', ready, unpack(taken))
end
if #stale > 0 then redis.call('ZREM', ready, unpack(stale)) end
return out
