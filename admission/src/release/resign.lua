-- Gives the lease up if the node has it. KEYS: leader. ARGV: node.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
