-- Looks through the instances that have not ended, some at each call, round and round: what lost its wake source is
-- mended here, steps whose message is lost are handed to the caller, who can make another. One walk for the whole hub,
-- however many orchestrators call: `audit` holds where it stands and when it goes on.
-- keys: audit idx_status inst open
-- args: limit:int
-- include: time audit_steps

local STATUSES = {'Running', 'Pending', 'Suspended'}
local PAUSE, ROUND, SOON, LATEST = 250, 2000, 50, 10000 -- milliseconds: between calls, of a round at least, with more to send
local FIELDS, STAY = 500, 10 -- fields a call; times that it stays where there is more to send than one caller may take

local at = redis.call('HMGET', audit, 'due', 'status', 'cursor', 'rest', 'scan', 'stay', 'began')
local due = tonumber(at[1] or '0')
if now < due and due - now <= LATEST then return {due - now, {}, {}} end
local status, cursor, scan = tonumber(at[2] or '1'), at[3] or '0', at[5] or '0'
local rest = at[4] and cmsgpack.unpack(at[4]) or {}
local stay, began = tonumber(at[6] or '0'), math.min(tonumber(at[7] or now_s), now)
local fields_left, round_over = FIELDS, false

-- One instance, or a part of its open steps; returns from where to go on, '0' when it is done.
local function look_at(id)
  local r = redis.call('HMGET', inst .. id, 'execution', 'status', 'stage', 'claim', 'suspended', 'delayed',
    'held', 'waiting')
  if not r[2] then redis.call('ZREM', idx_status .. STATUSES[status], id) end
  if not r[2] or ENDED[r[2]] then return '0' end
  if scan == '0' then check_wakes(id, r) end
  local page = redis.call('HSCAN', open .. r[1], scan, 'COUNT', 100)
  for i = 1, #page[2], 2 do check_field(id, r[1], page[2][i], page[2][i + 1]) end
  fields_left = fields_left - #page[2] / 2
  return page[1]
end

while limit > 0 and fields_left > 0 and not overflow and not round_over do
  limit = limit - 1
  if #rest > 0 then
    local following = look_at(rest[#rest])
    if overflow and stay < STAY then
      stay = stay + 1
    else
      scan, stay = following, 0
      if scan == '0' then table.remove(rest) end
    end
  elseif cursor == 'end' then
    status, cursor = status + 1, '0'
    round_over = status > #STATUSES
  else
    local page = redis.call('ZSCAN', idx_status .. STATUSES[status], cursor, 'COUNT', 50)
    for i = #page[2] - 1, 1, -2 do rest[#rest + 1] = page[2][i] end
    cursor = page[1] == '0' and 'end' or page[1]
  end
end

local following = now + (overflow and SOON or PAUSE)
if round_over then
  status, following, began = 1, math.max(following, began + ROUND), math.max(following, began + ROUND)
end
redis.call('HSET', audit, 'due', string.format('%.0f', following), 'status', status, 'cursor', cursor,
  'rest', cmsgpack.pack(rest), 'scan', scan, 'stay', stay, 'began', string.format('%.0f', began))
return {following - now, mends, suspects}
