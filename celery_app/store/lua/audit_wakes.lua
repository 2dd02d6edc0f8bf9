-- What makes an instance go on, put back where it is missing. Every mend is counted by its kind and returned.
-- keys: inst hist inbox control open pay ready timers beats claims mended
-- include: ready status groups ends

local LONGEST_PAUSE = 120000 -- milliseconds; nobody is handed back for longer

local mends = {}

local function mended_one(kind, id, seq)
  redis.call('HINCRBY', mended, kind, 1)
  mends[#mends + 1] = {kind, id, seq or ''}
end

local function claimed(id, claim)
  local incarnation = string.match(claim or '', '^(.*)%.%d+$')
  if incarnation and redis.call('ZSCORE', beats, incarnation) then
    if redis.call('SISMEMBER', claims .. incarnation, id) == 1 then return end
    redis.call('SADD', claims .. incarnation, id) -- so that the sweep finds it when its holder dies
  else
    redis.call('HSET', inst .. id, 'stage', '1', 'claim', '')
    redis.call('HDEL', inst .. id, 'alone')
    redis.call('ZADD', ready, now_s, id)
    if incarnation then redis.call('SREM', claims .. incarnation, id) end
    wake_up()
  end
  mended_one('claim', id)
end

-- `r`: execution, status, stage, claim, suspended, delayed, held, waiting. What the engine itself has suspended is left
-- alone, whatever it has not read: its code must not be touched before it is resumed.
local function check_wakes(id, r)
  if r[3] == '2' then
    claimed(id, r[4])
  elseif r[3] == '1' then
    local from = redis.call('ZSCORE', ready, id)
    if from and tonumber(from) - now <= LONGEST_PAUSE then return end -- later: the clock was set back since
    redis.call('ZADD', ready, now_s, id)
    wake_up()
    mended_one('ready', id)
  elseif r[6] then
    if redis.call('ZSCORE', timers, ':start:' .. id) then return end
    redis.call('ZADD', timers, r[6], ':start:' .. id)
    mended_one('start', id)
  elseif has_work(id, r[5]) and not (r[5] and (r[7] or r[8])) then
    make_ready(id, '0', false)
    mended_one('inbox', id)
  end
end

local function wake_again(id)
  local r = redis.call('HMGET', inst .. id, 'stage', 'suspended', 'delayed')
  make_ready(id, r[1], r[2] or r[3])
end

-- A child that is gone, or that ended without a word to its parent, gets its word here.
local function check_child(id, execution, seq, child)
  local r = redis.call('HMGET', inst .. child, 'parent_execution', 'status', 'execution', 'output', 'failure')
  local ours = r[1] == execution
  if ours and not ENDED[r[2]] then return end
  local text
  if ours and r[2] == 'Completed' then
    local result, field = r[4], string.match(r[4] or '', '^@(.+)$')
    if field then
      result = '@p' .. seq .. 'r'
      copy_payloads(r[3], execution, {{field, 'p' .. seq .. 'r'}})
    end
    text = '{"k":13,"seq":' .. seq .. (result and ',"result":' .. cjson.encode(result) or '')
  elseif ours and r[2] == 'Failed' and string.sub(r[5] or '', 1, 1) == '{' then
    text = '{"k":14,"seq":' .. seq .. ',"failure":' .. r[5]
  else
    local message = 'sub-orchestration ' .. child .. (ours and ' has ended: ' .. r[2] or ' no longer exists')
    text = '{"k":14,"seq":' .. seq .. ',"failure":{"error_type":"celeriac.OrchestrationTerminated","message":'
      .. cjson.encode(message) .. '}'
  end
  redis.call('RPUSH', inbox .. id, text .. ',"at":' .. now_s .. '}')
  redis.call('HDEL', open .. execution, seq)
  wake_again(id)
  mended_one('child', id, seq)
end

-- A group asks for its next window by an `E` item; with an empty inbox there is none.
local function check_group(id, execution, gseq)
  if redis.call('LLEN', inbox .. id) > 0 then return end
  local key = open .. execution
  local asked = redis.call('HGET', key, 'g' .. gseq .. 'e')
  if asked then redis.call('HDEL', key, 'g' .. gseq .. 'e') end
  local wanted = want_window(id, key, gseq)
  if wanted then wake_again(id) end
  if asked or wanted then mended_one('window', id, gseq) end
end
