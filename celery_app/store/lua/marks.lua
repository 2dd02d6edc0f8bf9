-- Reads the engine's header in a message and the state of an open activity step. No cjson: a message may be large, and
-- a JSON text cannot contain the header's quotes unescaped anywhere but in a key.

-- execution, seq and attempt (text) of an engine message; '' for one that claims to be ours and is not; nil for foreign ones.
local function step_of(message)
  local _, stop = string.find(message, '"celeriac-step":', 1, true)
  if not stop then return nil end
  local execution, seq, attempt = string.match(message, '^ ?"(%x+):(%d+):(%d+)"', stop + 1)
  return execution or '', seq, attempt
end

-- 'attempt', 'attempt|r|incarnation|since', 'attempt|p|' or 'attempt|d|', then perhaps '|l{n}' (so many processes died while
-- they ran the step, in a row), then perhaps '|g{gseq}' (a part of that group).
local function is_current(state, attempt)
  return state and string.match(state, '^(%d+)') == attempt
end

local function holder_of(state)
  return string.match(state, '^%d+|r|([^|]*)|')
end

-- What stays when a step changes hands.
local function tail_of(state)
  return string.match(state, '|l%d+|g%d+$') or string.match(state, '|[lg]%d+$') or ''
end
