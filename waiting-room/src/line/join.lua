-- Gives an account its place; the same one as before while that is good for anything.
-- KEYS: joined, places, passes, missed-below. ARGV: account, now (Unix seconds).
-- Returns: place, 1 when it is new.
local place = redis.call('HGET', KEYS[2], ARGV[1])
if place then
  local pass = redis.call('HGET', KEYS[3], place)
  local is_over
  if pass then
    local ends, given_back = string.match(pass, '^[^:]*:[^:]*:(%d+):(%d)$')
    is_over = given_back == '1' or tonumber(ends) <= tonumber(ARGV[2])
  else
    is_over = tonumber(place) <= tonumber(redis.call('GET', KEYS[4]) or '0')
  end
  if not is_over then
    return { tonumber(place), 0 }
  end
end
local next_place = redis.call('INCR', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], next_place)
return { next_place, 1 }
