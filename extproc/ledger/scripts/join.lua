-- A sidecar's first word on a connection, and again while the store is closed.
--
-- KEYS: meta, members, joined, pushed.
-- ARGV: run (this server's identity), sidecar, the epoch it knows ('' for none), the highest sequence
-- it has seen, 1 if it has a part, its push's name, a name for a new epoch, learn_ms, how long its part may count, then
-- the sidecars it remembers as pairs of name and until_ms.
-- Answers {state, epoch, seq, now, 'here' or 'push', missing sidecars, all sidecars with until}.
local run, name, known, seen = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local has_part, push, new_epoch = ARGV[5] == '1', ARGV[6], ARGV[7]
local members, joined, pushed = KEYS[2], KEYS[3], KEYS[4]
local meta = read_meta(KEYS[1])
if meta.format and meta.format ~= FORMAT then return {'format', meta.format} end
local now = store_now(meta)

local function begin(state)
  -- The keys of an older epoch are left behind; they end by their own.
  meta.epoch, meta.seq, meta.state, meta.opens = new_epoch, 0, state, 0
  redis.call('DEL', joined, pushed)
end

if meta.epoch == '' then
  -- New, or emptied: whoever knows better has a moment to object.
  begin('checking')
  meta.opens = now + tonumber(ARGV[8])
end
if meta.run ~= run then
  -- Restarted or failed over: open again when everybody has found what they had seen.
  meta.run = run
  if meta.state == 'open' then meta.state = 'checking' end
end
redis.call('HSET', members, name, whole(now + tonumber(ARGV[9])) .. ' 0')
for place = 10, #ARGV, 2 do
  redis.call('HSETNX', members, ARGV[place], ARGV[place + 1] .. ' 0')
end

local part = 'here'
if known == meta.epoch then
  if seen > meta.seq then
    begin('rebuilding')
    part = 'push'
  end
elseif known ~= '' or has_part then
  part = 'push'
  local before = redis.call('HGET', pushed, name)
  if before and string.match(before, '^(%S+) ') ~= push then
    begin('rebuilding') -- an earlier push of its part ended half-way, or was forgotten
  end
  if meta.state ~= 'rebuilding' then
    meta.state = 'rebuilding'
  end
end
if part == 'here' then redis.call('HSET', joined, name, meta.epoch .. ' ' .. meta.run) end
local missing = try_open(meta, members, joined, now)
write_meta(meta, now)
return {meta.state, meta.epoch, meta.seq, now, part, missing, redis.call('HGETALL', members)}
