-- Is there memory for new work? At 90 % of maxmemory no more is taken in, until it is below 85 %, so that what runs can end.
-- `room` holds `full` or `free` and when that was found: INFO costs as much as a start, so it is asked twice a second at most.
-- keys: room
-- include: time
local FULL_AT, FREE_BELOW, GOOD_FOR, SECTION = 0.9, 0.85, 500, 'memory'

local function no_room()
  local word, at = string.match(redis.call('GET', room) or '', '^(%a+) (%d+)$')
  if at and math.abs(now - tonumber(at)) < GOOD_FOR then return word == 'full' end
  local memory = redis.call('INFO', SECTION)
  local function field(name) return tonumber(string.match(memory, '\n' .. name .. ':(%d+)') or '0') end
  local most, used = field('maxmemory'), field('used_memory') - field('mem_not_counted_for_evict')
  local full = most > 0 and used >= most * (word == 'full' and FREE_BELOW or FULL_AT)
  redis.call('SET', room, (full and 'full ' or 'free ') .. now_s)
  return full
end

local function refuse_new()
  return redis.error_reply('FULL Redis has used 90 % of its maxmemory: nothing new is started until it is below 85 %, '
    .. 'so that what runs can end; raise maxmemory, or purge finished instances')
end
