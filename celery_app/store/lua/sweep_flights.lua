-- keys: beats procs open flight
-- args: limit:int most:int lease:int
-- include: heard back
-- Returns the messages of worker incarnations whose lease lapsed (after a silence: see heard.lua), at most `limit` a call; a step that was being run when its
-- process died, `most` times in a row and now again, is left to be judged. A lapsed one is condemned first (score
-- 0: it can take and beat no more) and forgotten by a later call that finds nothing left. Returns messages returned, incarnations
-- condemned and forgotten.

local NAMES = 1000 -- lapsed ones looked at; those of other kinds are left alone, and none may sweep them

local returned, condemned, forgotten = 0, 0, 0
note_life()
local lapsed = redis.call('ZRANGEBYSCORE', beats, '-inf', now_s, 'WITHSCORES', 'LIMIT', 0, NAMES)
for i = 1, #lapsed, 2 do
  local incarnation, score = lapsed[i], tonumber(lapsed[i + 1])
  if string.sub(incarnation, 1, 1) == 'w' and limit > 0 then
    if score > 0 then
      redis.call('ZADD', beats, 0, incarnation)
      condemned = condemned + 1
    end
    local fields = redis.call('HKEYS', flight .. incarnation)
    if #fields > 0 then
      local started = started_by(incarnation, newest_first(fields))
      while #fields > limit do table.remove(fields) end
      limit = limit - #fields
      returned = returned + give_back_fields(incarnation, fields, true, started, most)
    elseif score <= 0 then
      redis.call('ZREM', beats, incarnation)
      redis.call('HDEL', procs, incarnation)
      forgotten = forgotten + 1
    end
  end
end
return {returned, condemned, forgotten}
