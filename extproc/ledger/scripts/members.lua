-- Who has a part in the store, and whether it may be open.
--
-- members: sidecar -> 'until parted heard'; its part counts until then, parted 1 when it stopped in
-- order, heard when it last looked at the store.
-- joined: sidecar -> 'epoch run', what it has confirmed that its part is in.
local FORMAT = '1'
local SILENT_MS = 60000
-- A sidecar that was silent for so long when another one looked at the sequence had seen nothing
-- newer: the other one's word is enough that a restarted store misses nothing.

-- Sidecars whose part may be missing now.
local function missing_members(meta, members, joined, now)
  local missing = {}
  local all = redis.call('HGETALL', members)
  for place = 1, #all, 2 do
    local name = all[place]
    local ends_ms, parted, heard_ms = string.match(all[place + 1], '^(%d+) (%d) (%d+)$')
    local known = parted == '1' or tonumber(heard_ms) + SILENT_MS <= meta.horizon
    if tonumber(ends_ms) <= now then
      redis.call('HDEL', members, name)
      redis.call('HDEL', joined, name)
    elseif redis.call('HGET', joined, name) ~= meta.epoch .. ' ' .. meta.run
        and not (meta.state == 'checking' and known) then
      missing[#missing + 1] = name
    end
  end
  return missing
end

local function try_open(meta, members, joined, now)
  local missing = missing_members(meta, members, joined, now)
  if meta.state ~= 'open' and #missing == 0 and now >= meta.opens then meta.state = 'open' end
  return missing
end

local function write_meta(meta, now)
  redis.call('HSET', meta.key, 'epoch', meta.epoch, 'seq', meta.seq, 'clock', now,
    'state', meta.state, 'run', meta.run, 'opens', meta.opens, 'horizon', meta.horizon,
    'format', FORMAT)
end
