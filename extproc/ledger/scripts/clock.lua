-- The only clock of a shared store. Tests put another function of this name in its place.
local function clock_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
