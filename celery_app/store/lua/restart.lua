-- Start again what has ended: the same name, version, tags and input, under the same id or a new one.
-- The started event is our own record (the input is a JSON text *inside* a string), so it may be decoded here.
-- args: instance:str new_id:str execution:str reason:str
-- include: create room
local r = redis.call('HMGET', inst .. instance, 'status', 'execution')
if not r[1] then return redis.error_reply('NOTFOUND no instance has the id ' .. instance) end
if r[2] == execution then return {instance, r[2], 1} end
if not ENDED[r[1]] then
  return redis.error_reply('RUNNING instance ' .. instance .. ' has not ended (' .. r[1] .. '); only what ended can restart')
end
local event = cjson.decode(redis.call('LINDEX', hist .. instance, 0) or redis.call('LINDEX', inbox .. instance, 0) or '{}')
if event.k ~= 1 then return redis.error_reply('GONE the history of ' .. instance .. ' does not begin with its start') end

local copies = {}
local field = event.input and string.match(event.input, '^@(.+)$')
if field then copies[1] = {field, field} end
event.at, event.parent, event.run, event.depth = nil, nil, nil, nil
event.execution, event.instance = execution, new_id
event.reason = reason ~= '' and reason or nil
local req = {
  instance = new_id, execution = execution, name = event.name, version = event.version, tags = event.tags,
  started = string.sub(cjson.encode(event), 1, -2), copies = copies, copy_from = r[2], reason = event.reason,
}
local verdict, there = conflict_of(req)
if verdict == 'same' then return {new_id, there, 1} end
if verdict then return redis.error_reply('EXISTS an instance with the id ' .. new_id .. ' is still running') end
if no_room() then return refuse_new() end
create_instance(req)
return {new_id, execution, 1}
