-- Takes a place out of the line. A repeat changes nothing.
-- KEYS: places, left, left-counts, passes, cursor. ARGV: place, account.
-- Returns: 1, or 0 when the place has claimed its pass.
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 then
  return 0
end
if redis.call('SETBIT', KEYS[2], ARGV[1], 1) == 0 then
  redis.call('HINCRBY', KEYS[3], 'all', 1)
  if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[5]) or '0') then
    redis.call('HINCRBY', KEYS[3], 'waiting', 1)
  end
end
if redis.call('HGET', KEYS[1], ARGV[2]) == ARGV[1] then
  redis.call('HDEL', KEYS[1], ARGV[2])
end
return 1
