-- The clock: `now` and `now_s` in milliseconds; the caller's time, or Redis' when that is 0.
-- args: now:int
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local now_s = string.format('%.0f', now)
