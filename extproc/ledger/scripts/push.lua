-- A part of a sidecar's part: its counters and its open reservations, into the epoch that is being
-- rebuilt. A push that breaks off is never resumed: a new epoch is begun instead, so nothing
-- counts twice.
--
-- KEYS: meta, members, joined, pushed, leases, the counters, the records.
-- ARGV: epoch, run, sidecar, the push's name, number of this chunk, 1 if it is the last, number of
-- counters, then as MessagePack arrays each counter: window, newest slot, its end, then slot,
-- amount and held of each slot; and each record: state, lease_ms, kept_ms, amounts, taken.
-- Answers {state, epoch, seq, now}, or {'again'} when the epoch is another one by now.
local name, push, chunk = ARGV[3], ARGV[4], tonumber(ARGV[5])
local members, joined, pushed, leases = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local meta = read_meta(KEYS[1])
if meta.epoch ~= ARGV[1] or meta.run ~= ARGV[2] or meta.state ~= 'rebuilding' then
  return {'again'}
end
local now = store_now(meta)
local before = redis.call('HGET', pushed, name)
local owner, expected = push, 0
if before then
  owner, expected = string.match(before, '^(%S+) (%d+)$')
  expected = tonumber(expected)
end
if owner ~= push or chunk ~= expected then return {'again'} end

local count = tonumber(ARGV[7])
for place = 1, count do
  local words = cmsgpack.unpack(ARGV[7 + place])
  local w, newest, ends = words[1], words[2], words[3]
  local counter = load(KEYS[5 + place])
  local fresh = counter.fresh
  if fresh then
    open(counter.key, w, newest, ends, 0)
  elseif counter.w == w and newest > counter.s then
    move(counter, newest, ends)
  end
  counter.dirty = true
  for at = 4, #words, 3 do
    local slot = words[at]
    if counter.w ~= w then
      slot = counter.s -- another policy's window: all of it counts from now on
      if counter.m == 0 then counter.m = slot end
    end
    change(counter, slot, counter.v, words[at + 1], words[at + 2])
  end
end
for _, counter in pairs(counters) do write(counter, now) end
for place = 8 + count, #ARGV do
  local key = KEYS[5 + place - 7]
  local words = cmsgpack.unpack(ARGV[place])
  local lease = now + words[2]
  local packed = cmsgpack.pack({words[1], lease, words[4], words[5]})
  redis.call('SET', key, packed, 'PX', words[3])
  if words[1] == 'o' then redis.call('ZADD', leases, lease, key) end
end
redis.call('HSET', pushed, name, push .. ' ' .. whole(chunk + 1))
meta.seq = meta.seq + 1
if ARGV[6] == '1' then redis.call('HSET', joined, name, meta.epoch .. ' ' .. meta.run) end
try_open(meta, members, joined, now)
write_meta(meta, now)
return {meta.state, meta.epoch, meta.seq, now}
