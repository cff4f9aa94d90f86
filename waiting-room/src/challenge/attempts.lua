-- Counts an attempt to join in this minute, and answers how many the same group of addresses made
-- in the last 60 s, and how many everybody paid for: the minute before counts by the part of it
-- that is inside.
-- KEYS: attempts of this minute, of the one before. ARGV: group, part of the minute before in
-- thousandths, seconds to keep. Returns: of the group, of all.
local group = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
if redis.call('TTL', KEYS[1]) < 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
local paid = tonumber(redis.call('HGET', KEYS[1], 'all') or '0')
local before = redis.call('HMGET', KEYS[2], ARGV[1], 'all')
local function inside(count)
  return math.floor(tonumber(count or '0') * tonumber(ARGV[2]) / 1000)
end
return { group + inside(before[1]), paid + inside(before[2]) }
