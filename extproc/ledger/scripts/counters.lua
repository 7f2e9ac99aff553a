-- Counters in memory of one script call: read once, changed here, written together at the end, so
-- that whatever goes wrong before the first write leaves the store as it was.
--
-- A counter is a hash. Its field 'now' is MessagePack (one value is read and written faster than
-- nine): w window, s its newest slot, e when that slot ends, t all that counts, a and h what the
-- newest slot has and what of it is held, o the oldest slot that may be there, v how often the
-- window was edited, m the slot that the older windows' amounts were put into then. Each older
-- slot is a field of its own: 'amount held'.
local MAX = 9007199254740991 -- 2^53 - 1: above it a double is not exact
local OLDER = 60             -- older slots of a sliding window that still count
local GRACE_MS = 60000       -- a key outlives what it counts by this

local LED = 195              -- MessagePack's true: what a renamed rule's former counter begins with
local LED_MS = 7200000       -- it leads to the present one for longer than any request lives

local counters, led = {}, {}

local function whole(number)
  return string.format('%.0f', number) -- tostring writes 1e+15
end

local load
function load(key)
  local counter = counters[key]
  if counter then return counter end
  local packed = redis.call('HGET', key, 'now')
  counter = {key = key, set = {}, gone = {}}
  if packed and string.byte(packed) == LED then
    local _, present = cmsgpack.unpack(packed)
    counter = load(present)
  elseif packed then
    counter.w, counter.s, counter.e, counter.t, counter.a, counter.h, counter.o, counter.v,
      counter.m = cmsgpack.unpack(packed)
  else
    counter.fresh = true
  end
  counters[key] = counter
  return counter
end

local function slot_ms_of(w)
  local length_ms = string.match(w, '^s(%d+)$')
  return length_ms and math.ceil(length_ms / 60)
end

-- The older slots that are there: {slot, amount, held}, oldest first.
local function older(counter)
  local found = {}
  if counter.fresh or not slot_ms_of(counter.w) or counter.o >= counter.s then return found end
  local names = {}
  for slot = counter.o, counter.s - 1 do names[#names + 1] = whole(slot) end
  local values = redis.call('HMGET', counter.key, unpack(names))
  for place, name in ipairs(names) do
    local changed = counter.set[name]
    if changed then
      found[#found + 1] = {tonumber(name), changed[1], changed[2]}
    elseif values[place] and not counter.gone[name] then
      local amount, held = string.match(values[place], '^(%-?%d+) (%-?%d+)$')
      found[#found + 1] = {tonumber(name), tonumber(amount), tonumber(held)}
    end
  end
  return found
end

local function held_of(counter)
  local held = counter.h
  for _, cell in ipairs(older(counter)) do held = held + cell[3] end
  return held
end

-- Moves a counter's newest slot to `slot`, which ends at `ends`.
local function move(counter, slot, ends)
  local slot_ms = slot_ms_of(counter.w)
  local oldest = slot_ms and slot - OLDER or slot
  if counter.s < oldest then
    for _, cell in ipairs(older(counter)) do counter.gone[whole(cell[1])] = true end
    counter.set, counter.t, counter.o = {}, 0, slot
  else
    for _, cell in ipairs(older(counter)) do
      if cell[1] < oldest then
        local name = whole(cell[1])
        counter.t = counter.t - cell[2]
        counter.set[name], counter.gone[name] = nil, true
      end
    end
    if counter.o < oldest then counter.o = oldest end
    if counter.a ~= 0 or counter.h ~= 0 then
      counter.set[whole(counter.s)] = {counter.a, counter.h}
    end
  end
  counter.s, counter.e, counter.a, counter.h = slot, ends, 0, 0
  counter.moved = true
end

-- Lets go what has left a counter's own window by now. `slot` and `ends` are a calendar's.
local function age(counter, slot, ends, now)
  if now < counter.e then return end
  local slot_ms = slot_ms_of(counter.w)
  local current = slot_ms and math.floor(now / slot_ms) or slot
  if current > counter.s then
    move(counter, current, slot_ms and (current + 1) * slot_ms or ends)
  end
end

-- What was counted under a rule's former name counts under the present one, from now on, and the
-- former name leads here: for requests that were booked on it, and sidecars that do not know yet.
local function adopt(former, counter, is_new, now)
  local old = load(former)
  if old == counter or old.fresh then return end
  age(old, counter.s, counter.e, now)
  counter.a, counter.h = counter.a + old.t, counter.h + held_of(old)
  counter.t = counter.t + old.t
  if is_new then counter.v, counter.m = old.v + 1, counter.s end
  counter.dirty, old.dirty = true, nil
  counters[former], led[former] = counter, counter.key
end

-- Loads a counter for a window whose current slot is known. A slot never goes back.
local function open(key, w, slot, ends, now, former)
  local counter = load(key)
  local is_new = counter.fresh
  if is_new then
    counter.fresh, counter.moved = nil, true
    counter.w, counter.s, counter.e, counter.o = w, slot, ends, slot
    counter.t, counter.a, counter.h, counter.v, counter.m = 0, 0, 0, 0, 0
  elseif counter.w ~= w then
    -- An edited window: what counted until now counts from now on, nobody gets a fresh allowance.
    age(counter, slot, ends, now)
    local held = held_of(counter)
    for _, cell in ipairs(older(counter)) do counter.gone[whole(cell[1])] = true end
    counter.w, counter.s, counter.e, counter.o, counter.m = w, slot, ends, slot, slot
    counter.a, counter.h, counter.v, counter.set = counter.t, held, counter.v + 1, {}
    counter.moved, counter.dirty = true, true
  elseif now >= counter.e and slot > counter.s then
    move(counter, slot, ends)
  end
  if former and former ~= '' then adopt(former, counter, is_new, now) end
  return counter
end

-- A change of what a reservation took in `slot`. What has left the window counts no more.
local function change(counter, slot, version, amount, held)
  if counter.fresh then return end
  if version ~= counter.v then slot = counter.m end
  if slot >= counter.s then
    counter.a, counter.h = counter.a + amount, counter.h + held
  else
    if not slot_ms_of(counter.w) or slot < counter.s - OLDER then return end
    local name = whole(slot)
    local cell = counter.set[name]
    if not cell then
      local text = not counter.gone[name] and redis.call('HGET', counter.key, name)
      local had, kept = string.match(text or '0 0', '^(%-?%d+) (%-?%d+)$')
      cell = {tonumber(had), tonumber(kept)}
    end
    counter.set[name] = {cell[1] + amount, cell[2] + held}
    counter.gone[name] = nil
    if slot < counter.o then counter.o = slot end
  end
  counter.t = counter.t + amount
  counter.dirty = true
end

local function write(counter, now)
  local key = counter.key
  local packed = cmsgpack.pack(counter.w, counter.s, counter.e, counter.t, counter.a, counter.h,
    counter.o, counter.v, counter.m)
  redis.call('HSET', key, 'now', packed)
  for name, cell in pairs(counter.set) do
    redis.call('HSET', key, name, whole(cell[1]) .. ' ' .. whole(cell[2]))
  end
  if counter.moved then
    local dropped = {}
    for name in pairs(counter.gone) do dropped[#dropped + 1] = name end
    if #dropped > 0 then redis.call('HDEL', key, unpack(dropped)) end
    local slot_ms = slot_ms_of(counter.w)
    local leaves = slot_ms and (counter.s + OLDER + 1) * slot_ms or counter.e
    redis.call('PEXPIRE', key, math.max(leaves - now, 0) + GRACE_MS)
  end
end

local function write_leads()
  for former, present in pairs(led) do
    redis.call('DEL', former)
    redis.call('HSET', former, 'now', cmsgpack.pack(true, present))
    redis.call('PEXPIRE', former, LED_MS)
  end
end

-- What the store says of itself.
local function read_meta(key)
  local v = redis.call('HMGET', key, 'epoch', 'seq', 'clock', 'state', 'run', 'opens', 'format',
    'horizon')
  return {
    key = key, epoch = v[1] or '', seq = tonumber(v[2] or 0), clock = tonumber(v[3] or 0),
    state = v[4] or '', run = v[5] or '', opens = tonumber(v[6] or 0), format = v[7],
    horizon = tonumber(v[8] or 0),
  }
end

-- Redis' time, which for us never steps back: a slot that has ended does not begin again.
local function store_now(meta)
  return math.max(clock_ms(), meta.clock)
end
