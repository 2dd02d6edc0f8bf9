-- keys: beats procs open flight
-- args: old:str new:str lease:int acked:pack keep:pack left:pack dead:flag most:int
-- include: heard back
-- Ends the incarnation `old`: what was acknowledged goes, `keep` (still running) moves to `new`, everything else returns to the
-- head of its queue. `old` is forgotten, so that a take which arrives late is refused. `new` may be '' when nothing is kept.
-- `left`: an earlier try, whose reply was lost, may have moved them to `new`, and they run no longer.
-- `dead`: its process died, see back.lua. Returns the kept fields that were still there.
if new == '' and #keep > 0 then
  return redis.error_reply('INVALID running messages need an incarnation to move to')
end
if new ~= '' then
  note_life()
  redis.call('ZADD', beats, string.format('%.0f', now + lease), new)
end

local from, to = flight .. old, flight .. new
for _, field in ipairs(acked) do redis.call('HDEL', from, field) end
if #left > 0 then
  for _, field in ipairs(acked) do redis.call('HDEL', to, field) end
  give_back_fields(new, left, true)
end

local kept = {}
for _, field in ipairs(keep) do
  local body = redis.call('HGET', from, field)
  if body then
    redis.call('HSET', to, field, body)
    redis.call('HDEL', from, field)
    kept[#kept + 1] = field
    local cut = string.find(body, '\n', 1, true)
    local execution, seq, attempt = step_of(string.sub(body, cut + 1))
    local state = seq and redis.call('HGET', open .. execution, seq)
    if is_current(state, attempt) and holder_of(state) == old then
      local since = string.match(state, '^%d+|r|[^|]*|(%d+)') or now_s
      redis.call('HSET', open .. execution, seq, attempt .. '|r|' .. new .. '|' .. since .. tail_of(state))
    end
  elseif redis.call('HEXISTS', to, field) == 1 then
    kept[#kept + 1] = field -- this call was applied before, and its reply was lost
  end
end
local rest = newest_first(redis.call('HKEYS', from))
give_back_fields(old, rest, true, dead and started_by(old, rest), most)
if redis.call('EXISTS', from) == 1 then
  redis.call('ZADD', beats, 0, old) -- something could not go back yet: the sweep tries again
else
  redis.call('ZREM', beats, old)
end
redis.call('HDEL', procs, old)
return kept
