-- Give claims back without a strike: a graceful stop, or a claim whose reply was lost. `known` are kept.
-- keys: inst claims ready
-- args: incarnation:str limit:int known:pack
-- include: ready
local keep = {}
for _, id in ipairs(known) do keep[id] = true end
local mine = claims .. incarnation
local back = 0
for _, id in ipairs(redis.call('SMEMBERS', mine)) do
  if back >= limit then break end
  if not keep[id] then
    local claim = redis.call('HGET', inst .. id, 'claim')
    if claim and string.match(claim, '^(.*)%.%d+$') == incarnation then
      redis.call('HSET', inst .. id, 'stage', '1', 'claim', '')
      redis.call('HDEL', inst .. id, 'alone')
      redis.call('ZADD', ready, now_s, id)
      wake_up()
    end
    redis.call('SREM', mine, id)
    back = back + 1
  end
end
return back
