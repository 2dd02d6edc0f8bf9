-- One page of instances: the first of the indexes in `index` that applies, walked newest first (by id where `lex`),
-- the other conditions asked of each record. At most `scan` entries are looked at; `last` and `last_score` say
-- where the page before ended ('' at the start). Returns the items, and where this page ended or ''.
-- keys: inst
-- args: index:str lex:flag prefix:str statuses:pack name:str tag_key:str tag_value:str created_from:int created_to:int
-- args: last:str last_score:str limit:int scan:int
local wanted = nil
for _, status in ipairs(statuses) do
  wanted = wanted or {}
  wanted[status] = true
end

local function fits(id, r)
  if not r[1] or (wanted and not wanted[r[3]]) or (name ~= '' and r[1] ~= name) then return false end
  if prefix ~= '' and string.sub(id, 1, #prefix) ~= prefix then return false end
  local created = tonumber(r[4])
  if created < created_from or (created_to > 0 and created >= created_to) then return false end
  if tag_key == '' then return true end
  return cjson.decode(r[7] or '{}')[tag_key] == tag_value
end

-- Entries after the last one, at most n, as {id, score}; a member that has left the index meanwhile is no problem.
local function after(n)
  local found = {}
  if lex then
    local from = last ~= '' and '(' .. last or (prefix ~= '' and '[' .. prefix or '-')
    local to = prefix ~= '' and '[' .. prefix .. '\255' or '+'
    for _, id in ipairs(redis.call('ZRANGEBYLEX', index, from, to, 'LIMIT', 0, n)) do
      found[#found + 1] = {id, '0'}
    end
    return found
  end
  local top = last_score ~= '' and last_score or (created_to > 0 and string.format('(%.0f', created_to) or '+inf')
  local rank = last ~= '' and redis.call('ZREVRANK', index, last)
  local skip = 0
  if rank then
    skip = rank + 1 - redis.call('ZCOUNT', index, '(' .. last_score, '+inf')
  end
  local low = created_from > 0 and string.format('%.0f', created_from) or '-inf'
  local flat = redis.call('ZREVRANGEBYSCORE', index, top, low, 'WITHSCORES', 'LIMIT', skip, n)
  for i = 1, #flat, 2 do
    local passed = last ~= '' and not rank and flat[i + 1] == last_score and flat[i] >= last
    found[#found + 1] = {flat[i], flat[i + 1], passed}
  end
  return found
end

local items, looked_at, at = {}, 0, nil
local entries = after(scan)
for _, entry in ipairs(entries) do
  looked_at = looked_at + 1
  at = entry
  if not entry[3] then
    local r = redis.call('HMGET', inst .. entry[1], 'name', 'version', 'status', 'created', 'updated', 'custom',
      'tags', 'parent', 'waiting')
    if fits(entry[1], r) then
      for i = 1, 9 do r[i] = r[i] or '' end
      items[#items + 1] = {entry[1], r}
      if #items >= limit then break end
    end
  end
end
local more = looked_at < #entries or #entries == scan
if not more or not at then return {items, '', ''} end
return {items, at[1], at[2]}
