-- Redeems a solved challenge once, and counts it among the solved ones of all.
-- KEYS: the challenge's mark, attempts of this minute. ARGV: seconds until the mark expires, until
-- the attempts expire. Returns: true unless it was redeemed before.
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then
  return false
end
redis.call('HINCRBY', KEYS[2], 'all', 1)
if redis.call('TTL', KEYS[2]) < 0 then
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return true
