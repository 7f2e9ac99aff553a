-- One round trip of a sidecar: any number of reservations, ends, corrections and questions.
--
-- KEYS: meta, leases, the counters of the accounts in order, then each operation's record, then
-- the counters that ends name.
-- ARGV: epoch, highest sequence seen, number of accounts, the accounts, the operations. The last
-- two are MessagePack arrays (its integers are exact, and reading them is most of what a script
-- does).
-- An account is eight words per counter: unit, ceiling (-1: only watched), slot_ms (0: the
-- calendar), start, end and next end of the calendar's period, window, key of the former name.
-- Operations: r account lease_ms amounts; e kind amounts; b lease_ms amounts; k account amount; p
-- account.
-- A record: state, end of lease, amounts, what was taken (counter, unit, slot, version of each).
-- Answers {'ok', now, seq, results, totals of all counters}, {'closed', state, epoch, seq} or
-- {'stale', now}: the periods that were sent are not Redis' own.
local FORMAT = '1'
local SETTLED_KEPT_MS = 60000       -- an end is delivered again within seconds
local RELEASED_KEPT_MS = 600000     -- a late settlement of a released attempt
local EXPIRED_KEPT_MS = 86400000    -- usage that turns up after the lease

local meta = read_meta(KEYS[1])
if meta.format ~= FORMAT or meta.state ~= 'open' or meta.epoch ~= ARGV[1]
    or meta.seq < tonumber(ARGV[2]) then
  return {'closed', meta.state, meta.epoch, meta.seq}
end
local now = store_now(meta)
local leases = KEYS[2]
redis.call('ZCARD', leases) -- fails here, before any write, if somebody put another type there

local accounts, totals_of = {}, {}
local next_key, next_arg = 3, 4
for number = 1, tonumber(ARGV[3]) do
  local account = {}
  local shape = cmsgpack.unpack(ARGV[next_arg])
  for word = 1, #shape, 8 do
    local slot_ms, start, ends = shape[word + 2], shape[word + 3], shape[word + 4]
    local slot = start
    if slot_ms > 0 then
      slot = math.floor(now / slot_ms)
      ends = (slot + 1) * slot_ms
    elseif now < start or now >= shape[word + 5] then
      return {'stale', now}
    elseif now >= ends then
      slot, ends = ends, shape[word + 5]
    end
    local counter = open(KEYS[next_key], shape[word + 6], slot, ends, now, shape[word + 7])
    account[#account + 1] = {counter, shape[word] + 1, shape[word + 1]}
    totals_of[#totals_of + 1] = counter
    next_key = next_key + 1
  end
  accounts[number] = account
  next_arg = next_arg + 1
end

local records, leased, declared = {}, {}, nil

local function is_declared(name)
  if not declared then
    declared = {}
    for place = 3, #KEYS do declared[KEYS[place]] = true end
  end
  return declared[name]
end

local function record_of(key)
  local known = records[key]
  if known then return known end
  local packed = redis.call('GET', key)
  if not packed then return {state = ''} end
  local read = cmsgpack.unpack(packed)
  known = {state = read[1], lease = read[2], amounts = read[3], taken = read[4]}
  records[key] = known
  return known
end

local function keep(key, record, state, lease, amounts, kept_ms)
  record.state, record.lease, record.amounts = state, lease, amounts
  record.kept_ms, record.dirty = kept_ms, true
  records[key] = record
end

local function standing(account, place, amount)
  local counter, ceiling = account[place][1], account[place][3]
  local excess, slot, held = counter.t + amount - ceiling, -1, counter.h
  if ceiling < 0 or amount > ceiling then excess = 0 end -- time alone changes nothing
  local cells = older(counter)
  cells[#cells + 1] = {counter.s, counter.a, 0}
  for _, cell in ipairs(cells) do
    held = held + cell[3]
    if excess > 0 and slot < 0 then
      excess = excess - cell[2]
      if excess <= 0 then slot = cell[1] end
    end
  end
  return {place - 1, counter.t - held, held, slot}
end

local function reserve(key, account, lease_ms, amounts)
  local record = record_of(key)
  if record.state == 'o' then return 2 end
  if record.state ~= '' then return 3 end
  local full = {}
  for place, hold in ipairs(account) do
    local amount = amounts[hold[2]]
    local total = hold[1].t + amount
    if total > MAX or (hold[3] >= 0 and total > hold[3]) then
      full[#full + 1] = standing(account, place, amount)
    end
  end
  if #full > 0 then return full end
  local taken = {}
  for place, hold in ipairs(account) do
    local counter, amount = hold[1], amounts[hold[2]]
    counter.t, counter.a, counter.h = counter.t + amount, counter.a + amount, counter.h + amount
    counter.dirty = true
    local at = #taken
    taken[at + 1], taken[at + 2] = counter.key, hold[2] - 1
    taken[at + 3], taken[at + 4] = counter.s, counter.v
  end
  local lease = now + lease_ms
  keep(key, {taken = taken}, 'o', lease, amounts, lease_ms + EXPIRED_KEPT_MS)
  leased[key] = lease
  return 1
end

-- Changes what an open or late reservation took to `amounts`. -1 if it took from a counter whose
-- key was not declared: the caller reads the record and asks again.
local function retake(record, amounts, keeps_held, was_open)
  local taken, held = record.taken, record.amounts
  for at = 1, #taken, 4 do
    if not counters[taken[at]] and not is_declared(taken[at]) then return -1 end
  end
  for at = 1, #taken, 4 do
    local unit = taken[at + 1] + 1
    local old, new = held[unit], amounts[unit]
    local hold = was_open and (keeps_held and new - old or -old) or 0
    change(load(taken[at]), taken[at + 2], taken[at + 3], new - old, hold)
  end
  return 1
end

local function finish(key, kind, amounts)
  local record = record_of(key)
  local state = record.state
  if state == '' and kind == 'a' then
    -- Given up before it was seen: if it comes after all, it is refused.
    keep(key, {taken = {}}, 'l', now, {0, 0, 0, 0, 0, 0}, RELEASED_KEPT_MS)
    return 1
  end
  if state == '' and kind == 'q' then leased[key] = false end -- its record has ended by itself
  if state == '' or state == 's' or (state ~= 'o' and kind ~= 's') then return 0 end
  if kind == 'q' and record.lease > now then return 0 end -- renewed meanwhile
  if kind == 'x' or kind == 'q' then amounts = record.amounts end
  local done = retake(record, amounts, false, state == 'o')
  if done < 0 then return done end
  if state == 'o' then leased[key] = false end
  if kind == 's' then
    record.taken = {}
    keep(key, record, 's', now, amounts, SETTLED_KEPT_MS)
  elseif kind == 'x' or kind == 'q' then
    keep(key, record, 'x', now, amounts, EXPIRED_KEPT_MS)
  else
    keep(key, record, 'l', now, amounts, RELEASED_KEPT_MS)
  end
  return state == 'o' and 1 or 2
end

local function renew(key, lease_ms, at_least)
  local record = record_of(key)
  if record.state ~= 'o' then return 0 end
  local raised = {}
  for unit, amount in ipairs(record.amounts) do raised[unit] = math.max(amount, at_least[unit]) end
  local done = retake(record, raised, true, true)
  if done < 0 then return done end
  keep(key, record, 'o', now + lease_ms, raised, lease_ms + EXPIRED_KEPT_MS)
  leased[key] = now + lease_ms
  return 1
end

local function correct(key, account, amount)
  if record_of(key).state ~= '' then return 0 end
  local counter = account[1][1]
  if counter.t - held_of(counter) + amount < 0 then return 0 end
  local cells = older(counter)
  cells[#cells + 1] = {counter.s, counter.a, counter.h}
  for place = #cells, 1, -1 do
    local cell = cells[place]
    local part = math.max(amount, cell[3] - cell[2])
    if part ~= 0 then change(counter, cell[1], counter.v, part, 0) end
    amount = amount - part
  end
  keep(key, {taken = {}}, 's', now, {0, 0, 0, 0, 0, 0}, EXPIRED_KEPT_MS)
  return 1
end

local results = {}
for place = next_arg, #ARGV do
  local key = KEYS[next_key]
  next_key = next_key + 1
  local words = cmsgpack.unpack(ARGV[place])
  local kind, result = words[1], nil
  if kind == 'r' then
    result = reserve(key, accounts[words[2]], words[3], words[4])
  elseif kind == 'e' then
    result = finish(key, words[2], words[3])
  elseif kind == 'b' then
    result = renew(key, words[2], words[3])
  elseif kind == 'k' then
    result = correct(key, accounts[words[2]], words[3])
  else
    local account = accounts[words[2]]
    result = {}
    for number in ipairs(account) do result[number] = standing(account, number, 0) end
  end
  results[#results + 1] = result
end

local totals = {}
for place, counter in ipairs(totals_of) do totals[place] = counter.t end
for _, counter in pairs(counters) do
  if counter.dirty then
    write(counter, now)
    counter.dirty = nil
  end
end
write_leads()
for key, record in pairs(records) do
  if record.dirty then
    local packed = cmsgpack.pack({record.state, record.lease, record.amounts, record.taken})
    redis.call('SET', key, packed, 'PX', record.kept_ms)
  end
end
for key, lease in pairs(leased) do
  if lease then redis.call('ZADD', leases, lease, key) else redis.call('ZREM', leases, key) end
end
meta.seq = meta.seq + 1
redis.call('HSET', meta.key, 'seq', meta.seq, 'clock', now)
return {'ok', now, meta.seq, results, totals}
