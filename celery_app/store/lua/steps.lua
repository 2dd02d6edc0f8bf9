-- Open activity steps: `attempt`, then what it does (`|r|...` runs, `|p` parked), then marks (marks.lua), `|g{gseq}` last.
-- keys: open parked parked_body deadlines

-- Remove what hangs on the open attempt beside its field: deadlines and a parked retry.
local function drop_attempt(execution, seq, value, id)
  local task = execution .. ':' .. seq .. ':' .. string.match(value, '^%d+') .. ':' .. id
  redis.call('ZREM', deadlines, 'c:' .. task, 's:' .. task, 'h:' .. task, 'l:' .. task)
  if string.find(value, '^%d+|p') then
    redis.call('ZREM', parked, task)
    redis.call('HDEL', parked_body, task)
  end
end

-- Remove the field of a step and what is noted beside it: failed attempts, lost messages, notes, progress.
local function forget_step(key, seq)
  redis.call('HDEL', key, seq, 'f' .. seq, 'l' .. seq, 'n' .. seq, 'h' .. seq)
end

-- `,"attempts":[...]` from the failed attempts kept beside the step, to be spliced before the last brace.
local function attempts_text(failed)
  return failed and ',"attempts":[' .. failed .. ']' or ''
end
