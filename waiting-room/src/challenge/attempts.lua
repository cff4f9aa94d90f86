-- Sliding-window counter of challenges: counts a request by an asker of a group of addresses. The
-- previous minute is weighted by the part of it inside the last 60 s.
-- KEYS: attempts of this minute, of the previous one. ARGV: group, asker, weight of the previous
-- minute in thousandths, expiry in seconds. Returns: distinct askers of the group, requests of the
-- asker, solved challenges of all.
local asker = 'asker:' .. ARGV[2]
local own = redis.call('HINCRBY', KEYS[1], asker, 1)
if own == 1 then
  redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
end
if redis.call('TTL', KEYS[1]) < 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
local now = redis.call('HMGET', KEYS[1], ARGV[1], 'all')
local before = redis.call('HMGET', KEYS[2], ARGV[1], asker, 'all')
local function inside(count)
  return math.floor(tonumber(count or '0') * tonumber(ARGV[3]) / 1000)
end
return {
  tonumber(now[1] or '0') + inside(before[1]),
  own + inside(before[2]),
  tonumber(now[2] or '0') + inside(before[3]),
}
