-- Writes a snapshot unless a later leader has acted.
-- KEYS: fence, snapshot. ARGV: epoch, snapshot. Returns: 1 when it was written.
if tonumber(redis.call('GET', KEYS[1]) or '0') > tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2])
return 1
