-- Every process that said something about itself, with the time its beat lapses.
-- keys: beats procs
local out = {}
local all = redis.call('HGETALL', procs)
for i = 1, #all, 2 do out[#out + 1] = {all[i], all[i + 1], redis.call('ZSCORE', beats, all[i]) or '0'} end
return out
