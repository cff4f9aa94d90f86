-- Takes or renews the lease of the release leader.
-- KEYS: leader, epoch. ARGV: node, lease in milliseconds, now in milliseconds, an epoch that the
-- new one must exceed. Returns: the epoch, or 0 when another node has the lease.
-- An epoch is at least the time, so that it grows even when Redis has forgotten the last one.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0')
if not holder or epoch <= tonumber(ARGV[4]) then
  epoch = math.max(epoch, tonumber(ARGV[3]), tonumber(ARGV[4])) + 1
  redis.call('SET', KEYS[2], string.format('%.0f', epoch))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return epoch
