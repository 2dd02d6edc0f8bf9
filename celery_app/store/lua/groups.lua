-- Groups: the counters of `g{gseq}` in the open hash. A part that waits for its retry holds no slot.
-- keys: inbox open pay closing
-- include: time

-- Put `E{gseq}` into the inbox when half a window is back and parts remain; true if it was put.
local function want_window(id, key, gseq)
  local g = 'g' .. gseq
  local v = redis.call('HMGET', key, g, g .. 'c', g .. 'i', g .. 'w', g .. 'e')
  if not v[1] or v[5] or tonumber(v[2]) >= tonumber(v[1]) or tonumber(v[3]) * 2 > tonumber(v[4]) then
    return false
  end
  redis.call('HSET', key, g .. 'e', '1')
  redis.call('RPUSH', inbox .. id, 'E' .. gseq)
  return true
end

local function forget_group(key, gseq)
  local g = 'g' .. gseq
  redis.call('HDEL', key, g, g .. 'd', g .. 'f', g .. 'c', g .. 'i', g .. 'w', g .. 'e', g .. 'x', g .. 'p')
end

-- A part's outcome (open text) as the event of a single activity.
local function part_event(seq, success, outcome, attempts)
  local rest = string.sub(outcome, 2)
  return '{"k":' .. (success and '3' or '4') .. ',"seq":' .. seq .. (rest == '' and '' or ',' .. rest)
    .. attempts .. ',"at":' .. now_s .. '}'
end

-- A part has ended: stored by index and counted, or reported singly when its group is dissolved or forgotten. Returns
-- whether something came into the inbox. The counters are read and written in one command each: this is hot.
local function join_part(id, execution, gseq, part)
  local key, g = open .. execution, 'g' .. gseq
  local v = redis.call('HMGET', key, g, g .. 'x', g .. 'd', g .. 'f', g .. 'c', g .. 'i', g .. 'w', g .. 'e')
  local attempts = part.attempts
  local single = not v[1] or v[2]
  if single then
    redis.call('RPUSH', inbox .. id, part_event(part.seq, part.success, part.text, attempts))
    if not v[1] then return true end
  else
    if part.text == '{' then attempts = string.sub(attempts, 2) end
    redis.call('HSET', pay .. execution, g .. ':' .. string.format('%.0f', part.index),
      (part.success and '+' or '-') .. part.text .. attempts .. '}')
  end
  local done = tonumber(v[3]) + (single and 0 or 1)
  local failed = tonumber(v[4]) + ((single or part.success) and 0 or 1)
  local in_flight = tonumber(v[6]) - (part.held_slot and 1 or 0)
  if not single and done == tonumber(v[1]) then
    redis.call('RPUSH', inbox .. id, '{"k":6,"seq":' .. gseq .. ',"failed":' .. failed .. ',"at":' .. now_s .. '}')
    forget_group(key, gseq)
    return true
  end
  local wanted = not v[8] and tonumber(v[5]) < tonumber(v[1]) and in_flight * 2 <= tonumber(v[7])
  if wanted then redis.call('RPUSH', inbox .. id, 'E' .. gseq) end
  redis.call('HSET', key, g .. 'd', done, g .. 'f', failed, g .. 'i', in_flight, unpack(wanted and {g .. 'e', '1'} or {}))
  return single or wanted
end

-- Turn stored outcomes of a dissolved group into inbox items, at most `limit` of them looked at from index
-- `first` on; what remains is left to the sweep.
local function spill(id, execution, gseq, size, first, limit)
  local stop = math.min(size, first + limit)
  for index = first, stop - 1 do
    local field = 'g' .. gseq .. ':' .. index
    local text = redis.call('HGET', pay .. execution, field)
    if text then
      local outcome = string.sub(text, 2, -2)
      local event = part_event(string.format('%.0f', gseq + index), string.sub(text, 1, 1) == '+', outcome, '')
      redis.call('RPUSH', inbox .. id, event)
      redis.call('HDEL', pay .. execution, field)
    end
  end
  if stop < size then
    redis.call('RPUSH', closing, table.concat({'spill', execution, id, gseq .. ' ' .. size .. ' ' .. stop}, '\n'))
  end
end
