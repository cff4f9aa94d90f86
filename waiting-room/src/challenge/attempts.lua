-- Counts an attempt to join in this minute, and answers how many were made in the last 60 s by the
-- same group of addresses and by all: the minute before counts by the part of it that is inside.
-- KEYS: attempts of this minute, of the one before. ARGV: group, part of the minute before in
-- thousandths, seconds to keep. Returns: of the group, of all.
local group = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
local all = redis.call('HINCRBY', KEYS[1], 'all', 1)
if all == 1 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
local before = redis.call('HMGET', KEYS[2], ARGV[1], 'all')
local function inside(count)
  return math.floor(tonumber(count or '0') * tonumber(ARGV[2]) / 1000)
end
return { group + inside(before[1]), all + inside(before[2]) }
