-- Ends the pass of a place. A repeat changes nothing.
-- KEYS: passes, shopping. ARGV: place, pass id.
local pass = redis.call('HGET', KEYS[1], ARGV[1])
if pass then
  local jti, times = string.match(pass, '^([^:]*):(%d+:%d+):%d$')
  if jti == ARGV[2] then
    redis.call('HSET', KEYS[1], ARGV[1], jti .. ':' .. times .. ':1')
    redis.call('ZREM', KEYS[2], ARGV[1])
  end
end
return 1
