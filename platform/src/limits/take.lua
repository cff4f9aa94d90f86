-- Counts some requests in each cell, as many as it has room for (generic cell rate).
-- KEYS: cells. ARGV: now, then for each cell the time of one request, that of a whole burst, and
-- how many ask; all times in microseconds. Returns for each cell: how many go through, and how
-- long the next must wait.
local now = tonumber(ARGV[1])
local answer = {}
for i, key in ipairs(KEYS) do
  local step, burst = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local asking = tonumber(ARGV[3 * i + 1])
  local at = math.max(tonumber(redis.call('GET', key) or '0'), now)
  local through = math.min(asking, math.max(math.floor((now + burst - at) / step), 0))
  if through > 0 then
    at = at + through * step
    local kept = math.ceil((at - now) / 1000)
    redis.call('SET', key, string.format('%.0f', at), 'PX', string.format('%.0f', kept))
  end
  answer[2 * i - 1] = through
  answer[2 * i] = math.max(at + step - burst - now, 0)
end
return answer
