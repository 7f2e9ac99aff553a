-- A sidecar stops in order. What it has seen is in the store, or this word is not.
-- KEYS: members. ARGV: sidecar, until_ms.
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' 1 0')
