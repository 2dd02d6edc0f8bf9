-- The status index is kept exactly in step with the record.
-- keys: idx_status
local ENDED = {Completed = true, Failed = true, Terminated = true, Cancelled = true}

local function index_status(id, old, new, created)
  if old ~= new then
    redis.call('ZREM', idx_status .. old, id)
    redis.call('ZADD', idx_status .. new, created, id)
  end
end
