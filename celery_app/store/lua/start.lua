-- Start an instance.
-- args: req:pack
-- include: create room

-- Check.
if req.idempotency_key then
  local known = redis.call('GET', idem .. req.idempotency_key)
  if known then
    local execution = redis.call('HGET', inst .. known, 'execution')
    if execution then
      local born = redis.call('HGET', inst .. known, 'born')
      return {known, execution, born == req.execution and 1 or 0}
    end
  end
end
local verdict, there = conflict_of(req)
if verdict == 'same' then return {req.instance, there, 1} end
if verdict == 'use' then return {req.instance, there, 0} end
if verdict == 'exists' then
  return redis.error_reply('EXISTS an instance with the id ' .. req.instance .. ' is still running')
end
if no_room() then return refuse_new() end

-- Write.
create_instance(req)
return {req.instance, req.execution, 1}
