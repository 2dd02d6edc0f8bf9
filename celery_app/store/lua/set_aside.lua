-- keys: flight aside
-- args: incarnation:str field:str reason:str
-- A taken message that nobody can read leaves the flight record for the list of such messages.
local body = redis.call('HGET', flight .. incarnation, field)
if not body then return 0 end
redis.call('LPUSH', aside, reason .. '\n' .. body)
redis.call('LTRIM', aside, 0, 999)
redis.call('HDEL', flight .. incarnation, field)
return 1
