-- Moves one sale's cursor.
-- KEYS: fence, joined, cursor, missed-below, left, left-counts, claimed, calls, shopping, claims.
-- ARGV: epoch, now (ms), most calls, shopper cap, claim window (ms).
-- Returns: the fence, and unless it is above the epoch: joined, cursor, missed-below, left in all,
-- left and waiting, shopping, claims of the last minute, called now.
local fence = tonumber(redis.call('GET', KEYS[1]) or '0')
local epoch, now = tonumber(ARGV[1]), tonumber(ARGV[2])
if epoch < fence then
  return { fence }
end
if epoch > fence then
  redis.call('SET', KEYS[1], ARGV[1])
end

local function number(key)
  return tonumber(redis.call('GET', key) or '0')
end
local joined, cursor, missed = number(KEYS[2]), number(KEYS[3]), number(KEYS[4])

-- Claim windows that ran out.
local missed_before = missed
while true do
  local call = redis.call('ZRANGE', KEYS[8], 0, 0)[1]
  if not call then break end
  local up_to, at = string.match(call, '^(%d+):(%d+)$')
  if tonumber(at) > now - tonumber(ARGV[5]) then break end
  missed = math.max(missed, tonumber(up_to))
  redis.call('ZREM', KEYS[8], call)
end
if missed > missed_before then
  redis.call('SET', KEYS[4], missed)
end

-- Room: the cap, less those who shop and those who may still claim.
redis.call('ZREMRANGEBYSCORE', KEYS[9], '-inf', now)
local shopping = redis.call('ZCARD', KEYS[9])
local may_claim = 0
if cursor > missed then
  may_claim = cursor - missed
    - redis.call('BITCOUNT', KEYS[5], missed + 1, cursor, 'BIT')
    - redis.call('BITCOUNT', KEYS[7], missed + 1, cursor, 'BIT')
end
local room = math.min(tonumber(ARGV[3]), tonumber(ARGV[4]) - shopping - may_claim)

-- Run by run of present places; those who left are skipped.
local cursor_before, called, skipped = cursor, 0, 0
local bits = redis.call('STRLEN', KEYS[5]) * 8
while called < room and cursor < joined do
  local gone = -1
  if cursor + 1 < bits then
    gone = redis.call('BITPOS', KEYS[5], 1, cursor + 1, joined, 'BIT')
  end
  local run_end = gone == -1 and joined or gone - 1
  local step = math.min(run_end - cursor, room - called)
  cursor = cursor + step
  called = called + step
  if gone ~= -1 and cursor == run_end then
    local present = redis.call('BITPOS', KEYS[5], 0, gone, joined, 'BIT')
    if present == -1 then
      present = math.min(joined + 1, bits)
    end
    skipped = skipped + present - gone
    cursor = present - 1
  end
end
if cursor > cursor_before then
  redis.call('SET', KEYS[3], cursor)
  redis.call('ZADD', KEYS[8], cursor, string.format('%.0f:%s', cursor, ARGV[2]))
end
if skipped > 0 then
  redis.call('HINCRBY', KEYS[6], 'waiting', -skipped)
end

redis.call('ZREMRANGEBYSCORE', KEYS[10], '-inf', now - 60000)
local left = redis.call('HMGET', KEYS[6], 'all', 'waiting')
return {
  epoch, joined, cursor, missed, tonumber(left[1] or '0'), tonumber(left[2] or '0'),
  shopping, redis.call('ZCARD', KEYS[10]), called,
}
