-- What was handed back to wait is tried now: a process has joined that may serve it.
-- keys: inst hist inbox control ready wake
-- args: limit:int
-- include: ready
local ids = redis.call('ZRANGEBYSCORE', ready, '(' .. now_s, '+inf', 'LIMIT', 0, limit)
for _, id in ipairs(ids) do make_ready_now(id, '1', false) end
return #ids
