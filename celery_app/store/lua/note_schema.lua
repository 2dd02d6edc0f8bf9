-- The schema is noted by the first who comes and raised by a newer one; returns the number that was there.
-- keys: schema
-- args: number:int
local there = tonumber(redis.call('GET', schema) or '0')
if there < number then redis.call('SET', schema, number) end
return there
