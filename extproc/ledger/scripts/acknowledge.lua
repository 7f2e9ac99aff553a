-- An operator takes the loss: the store opens without the parts that are missing.
-- KEYS: meta, members, joined. ARGV: run, a name for a new epoch.
-- Answers {state before, epoch, missing sidecars}.
local members, joined = KEYS[2], KEYS[3]
local meta = read_meta(KEYS[1])
if meta.format and meta.format ~= FORMAT then return {'format', meta.format, {}} end
local now = store_now(meta)
if meta.state == 'open' and meta.run == ARGV[1] then return {'open', meta.epoch, {}} end
local before = meta.state
if meta.epoch == '' then meta.epoch, before = ARGV[2], 'empty' end
local missing = missing_members(meta, members, joined, now)
for _, name in ipairs(missing) do redis.call('HDEL', members, name) end
meta.state, meta.opens, meta.run = 'open', 0, ARGV[1]
write_meta(meta, now)
return {before, meta.epoch, missing}
