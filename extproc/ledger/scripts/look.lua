-- A sidecar looks, about once a second: is the store what it was, and who has a part in it? In one
-- step, so that an emptied store never passes for one without others.
--
-- KEYS: meta, members. ARGV: epoch, highest sequence seen, sidecar, its entry among the members.
-- Answers {seq, all members}, or {} when the store is not open as we know it.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'seq')
if meta[1] ~= ARGV[1] or meta[2] ~= 'open' or tonumber(meta[3]) < tonumber(ARGV[2]) then
  return {}
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return {tonumber(meta[3]), redis.call('HGETALL', KEYS[2])}
