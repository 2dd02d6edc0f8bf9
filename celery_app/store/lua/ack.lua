-- keys: flight
-- args: incarnation:str fields:pack
-- The messages are done with. Returns how many were still this incarnation's.
local done = 0
for i = 1, #fields, 1000 do
  done = done + redis.call('HDEL', flight .. incarnation, unpack(fields, i, math.min(i + 999, #fields)))
end
return done
