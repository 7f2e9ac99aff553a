-- A sidecar's first word on a connection, and again while the store is closed.
--
-- KEYS: meta, members, joined, pushed.
-- ARGV: run (this server's identity), sidecar, the epoch it knows ('' for none), the highest
-- sequence it has seen, 1 if it has a part, its push's name, a name for a new epoch, learn_ms, how
-- long its part may count, then the sidecars it remembers as pairs of name and until_ms.
-- Answers {state, epoch, seq, now, 'here' or 'push', missing sidecars, all sidecars with until}.
local DAY_MS = 86400000
local run, name, known, seen = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local has_part, push, new_epoch = ARGV[5] == '1', ARGV[6], ARGV[7]
local members, joined, pushed = KEYS[2], KEYS[3], KEYS[4]
local meta = read_meta(KEYS[1])
if meta.format and meta.format ~= FORMAT then return {'format', meta.format} end
local now = store_now(meta)

local function begin(state)
  -- The keys of an older epoch are left behind; they end by their own.
  meta.epoch, meta.seq, meta.state, meta.opens, meta.horizon = new_epoch, 0, state, 0, 0
  redis.call('DEL', joined, pushed)
end

if meta.epoch == '' then
  -- New, or emptied: whoever knows better has a moment to object.
  begin('checking')
  meta.opens = now + tonumber(ARGV[8])
end
if meta.run ~= run then
  -- Restarted or failed over: open again when everybody has found what they had seen.
  meta.run, meta.horizon = run, 0
  if meta.state == 'open' then meta.state = 'checking' end
end
local before = redis.call('HGET', members, name)
local heard_ms = before and tonumber(string.match(before, ' (%d+)$')) or 0
local until_ms = now + tonumber(ARGV[9])
until_ms = until_ms - until_ms % DAY_MS -- in whole days: journals remember it
redis.call('HSET', members, name, whole(until_ms) .. ' 0 ' .. whole(now))

local part = 'here'
if known == meta.epoch then
  if seen > meta.seq then
    begin('rebuilding')
    part = 'push'
  elseif redis.call('HGET', joined, name) ~= meta.epoch .. ' ' .. meta.run then
    -- Its first word after the restart: what it heard before, it heard of the store as it was.
    meta.horizon = math.max(meta.horizon, heard_ms)
  end
elseif known ~= '' or has_part then
  part = 'push'
  local other = redis.call('HGET', pushed, name)
  if other and string.match(other, '^(%S+) ') ~= push then
    begin('rebuilding') -- an earlier push of its part ended half-way, or was forgotten
  end
  if meta.state ~= 'rebuilding' then
    meta.state = 'rebuilding'
  end
end
if meta.state ~= 'open' then
  -- While it is open it knows better, also whom an operator does not wait for any more.
  for place = 10, #ARGV, 2 do
    redis.call('HSETNX', members, ARGV[place], ARGV[place + 1] .. ' 0 ' .. whole(now))
  end
end
if part == 'here' then redis.call('HSET', joined, name, meta.epoch .. ' ' .. meta.run) end
local missing = try_open(meta, members, joined, now)
write_meta(meta, now)
return {meta.state, meta.epoch, meta.seq, now, part, missing, redis.call('HGETALL', members)}
