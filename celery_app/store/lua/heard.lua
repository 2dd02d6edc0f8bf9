-- A silence: for longer than half a lease nobody has beaten or swept, so Redis was away (or stood still) and nobody could. What
-- would have lapsed in it or soon after is given time until a lease after its end; what had lapsed before is judged as ever. A
-- second silence within that lease gives no other one: it counts as half a lease, however long it was. So silences in a row
-- cannot keep something dead for ever. When the clock is set back, leases go back with it. `heard`: `last` sign of life; of the last silence when it began (`from`) and `until`
-- when it is made up for.
-- keys: beats heard
-- args: lease:int
-- include: time

local MOST = 10000 -- processes whose leases are changed, once a silence

-- Leases that end at `first` or later: `changed(score)` is when they end now.
local function prolong(first, changed)
  local found = redis.call('ZRANGEBYSCORE', beats, string.format('%.0f', first), '+inf', 'WITHSCORES', 'LIMIT', 0, MOST)
  for i = 1, #found, 2 do
    redis.call('ZADD', beats, string.format('%.0f', changed(tonumber(found[i + 1]))), found[i])
  end
end

-- Somebody lives. Returns up to when deadlines may be judged now. Without memory it is refused, as every beat is; or, with
-- `lenient`, returns nil: then nothing may be judged.
local function note_life(lenient)
  local noted = redis.call('HMGET', heard, 'last', 'from', 'until')
  local last, from, till = tonumber(noted[1] or now_s), tonumber(noted[2] or '0'), tonumber(noted[3] or '0')
  local length, most = now - last, lease / 2
  local again = length > most and last < till
  if length < 0 then -- the clock was set back
    from, till = 0, 0
  elseif again then
    till = till + length - most
  elseif length > most then
    from, till = last, now + lease
  end
  local values = {'last', now_s, 'from', string.format('%.0f', from), 'until', string.format('%.0f', till)}
  local done = lenient and redis.pcall('HSET', heard, unpack(values)) or redis.call('HSET', heard, unpack(values))
  if type(done) == 'table' then return nil end
  if length < 0 then
    prolong(2, function(score) return math.max(1, score + length) end)
  elseif again then
    prolong(last, function(score) return score + length - most end)
  elseif length > most then
    prolong(last, function(score) return math.max(score, till) end)
  end
  return now < till and math.min(now, from - 1) or now
end
