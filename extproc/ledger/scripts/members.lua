-- Who has a part in the store, and whether it may be open.
--
-- members: sidecar -> 'until parted'; its part counts until then, parted 1 when it stopped in order.
-- joined: sidecar -> 'epoch run', what it has confirmed that its part is in.
local FORMAT = '1'

-- Sidecars whose part may be missing now.
local function missing_members(meta, members, joined, now)
  local missing = {}
  local all = redis.call('HGETALL', members)
  for place = 1, #all, 2 do
    local name, ends_ms, parted = all[place], string.match(all[place + 1], '^(%d+) (%d)$')
    if tonumber(ends_ms) <= now then
      redis.call('HDEL', members, name)
      redis.call('HDEL', joined, name)
    elseif redis.call('HGET', joined, name) ~= meta.epoch .. ' ' .. meta.run
        and not (meta.state == 'checking' and parted == '1') then
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
    'state', meta.state, 'run', meta.run, 'opens', meta.opens, 'format', FORMAT)
end
