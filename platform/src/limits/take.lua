-- Counts one request in every cell, or in none when one of them is full (generic cell rate).
-- KEYS: cells. ARGV: now, then for each cell the time of one request and that of a whole burst;
-- all in microseconds. Returns: 0, or how long to wait.
local now = tonumber(ARGV[1])
local wait, next_at = 0, {}
for i, key in ipairs(KEYS) do
  local step, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local at = math.max(tonumber(redis.call('GET', key) or '0'), now) + step
  wait = math.max(wait, at - burst - now)
  next_at[i] = at
end
if wait > 0 then
  return wait
end
for i, key in ipairs(KEYS) do
  local kept = math.ceil((next_at[i] - now) / 1000)
  redis.call('SET', key, string.format('%.0f', next_at[i]), 'PX', string.format('%.0f', kept))
end
return 0
