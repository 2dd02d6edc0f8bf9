-- Remember what a process serves: `o name` or `a name` to versions. Nothing is ever forgotten.
-- keys: served
-- args: names:pack
local changed = 0
for name, versions in pairs(names) do
  local known = cjson.decode(redis.call('HGET', served, name) or '[]')
  local seen = {}
  for _, version in ipairs(known) do seen[version] = true end
  local before = #known
  for _, version in ipairs(versions) do
    if not seen[version] then
      known[#known + 1] = version
      seen[version] = true
    end
  end
  if #known > before then
    redis.call('HSET', served, name, cjson.encode(known))
    changed = changed + 1
  end
end
return changed
