-- Claims the pass of a place: once, after it was called, within the rate and the cap.
-- KEYS: cursor, missed-below, left, claimed, passes, shopping, claims.
-- ARGV: place, now (ms), rate per minute, shopper cap, seconds a pass lasts, id for a new pass.
-- Returns: a word, two numbers and a pass id.
local place, now = tonumber(ARGV[1]), tonumber(ARGV[2])

local pass = redis.call('HGET', KEYS[5], ARGV[1])
if pass then
  local jti, issued, ends, given_back = string.match(pass, '^([^:]*):(%d+):(%d+):(%d)$')
  if given_back == '1' or tonumber(ends) * 1000 <= now then
    return { 'over', 0, 0, '' }
  end
  return { 'repeated', tonumber(issued), tonumber(ends), jti }
end
if redis.call('GETBIT', KEYS[3], place) == 1 then
  return { 'left', 0, 0, '' }
end
local cursor = tonumber(redis.call('GET', KEYS[1]) or '0')
if place > cursor then
  return { 'not-called', place - cursor, 0, '' }
end
if place <= tonumber(redis.call('GET', KEYS[2]) or '0') then
  return { 'missed', 0, 0, '' }
end

-- The rate, exactly: claims in the 60 s that end now.
local rate = tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', now - 60000)
local claims = redis.call('ZCARD', KEYS[7])
if claims >= rate then
  local wait = 5000
  if rate > 0 then
    -- There is room again when this claim is a minute old.
    local blocking = redis.call('ZRANGE', KEYS[7], claims - rate, claims - rate, 'WITHSCORES')
    wait = tonumber(blocking[2]) + 60000 - now
  end
  return { 'full', wait, 0, '' }
end
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now)
if redis.call('ZCARD', KEYS[6]) >= tonumber(ARGV[4]) then
  local first = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
  local wait = first[2] and tonumber(first[2]) - now or 5000
  -- A slot may come back sooner than the first pass ends.
  return { 'full', math.min(wait, 5000), 0, '' }
end

local issued = math.floor(now / 1000)
local ends = issued + tonumber(ARGV[5])
redis.call('HSET', KEYS[5], ARGV[1], string.format('%s:%.0f:%.0f:0', ARGV[6], issued, ends))
redis.call('SETBIT', KEYS[4], place, 1)
redis.call('ZADD', KEYS[6], ends * 1000, ARGV[1])
redis.call('ZADD', KEYS[7], now, ARGV[1])
return { 'granted', issued, ends, ARGV[6] }
