-- Finds usage in responses and ships it as metadata; hides the usage chunk that was injected.
--
-- Of a stream it holds back at most one incomplete event, and only where a chunk is to be hidden; of
-- a JSON body it holds back nothing. It changes no byte but the hidden chunk's. Reading happens under
-- pcall: whatever fails there, the bytes go on and only the report is lost, which the sidecar charges
-- at the reservation. Of errors it also tempers what they say about retries.

local NAMESPACE = "tokenweir.usage"
local TAIL_BYTES = 16384   -- of a JSON body: usage stands near its end, metadata may follow it
local EVENT_BYTES = 8192   -- of one shipped event; real ones have a few hundred
local HELD_BYTES = 1048576 -- a Responses API stream repeats its output in one event; longer: unread
-- The events of the Responses API that end a stream, and bill it.
local LAST_RESPONSE = { completed = true, incomplete = true, failed = true }

-- Of waits that clients are told: none is longer, and above the other their SDKs are not to retry.
local MAX_WAIT_S, RETRIED_S = 86400, 60
local MONTHS = {
  Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6,
  Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12,
}

local SAID_OF_BODY = { "location", "content-encoding", "etag", "last-modified", "set-cookie" }
local BAD_GATEWAY = '{"type":"error","error":{"type":"api_error","message":"%s","param":null,'
  .. '"code":"no_healthy_target","metadata":{"code":"no_healthy_target","retryable":true}}}'

local find, match, sub, gsub = string.find, string.match, string.sub, string.gsub
local floor = math.floor

-- What follows the last key "usage" of a JSON text, with the key. Quotes inside JSON strings are
-- escaped, so no text that a model writes looks like the key.
local function from_last_usage(text)
  local last, at = nil, 1
  while true do
    local start, stop = find(text, '"usage"', at, true)
    if not start then break end
    if find(text, "^%s*:", stop + 1) then last = start end
    at = stop + 1
  end
  return last and sub(text, last)
end

local function ship(handle, key, text, max_bytes)
  if text and #text <= max_bytes then
    -- Log entries travel as UTF-8: one stray byte would cost the whole batch its settlement.
    text = gsub(text, "[\128-\255]", "?")
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, key, text)
  end
end

-- Ships what an event says about usage, and tells whether it is the chunk to hide.
local function read_event(handle, state, event)
  if not find(event, '"usage"', 1, true) then return false end
  -- The first event may begin with a byte order mark.
  local data = match(event, "^[\239\187\191]*data: ?([^\r\n]*)")
    or match(event, "[\r\n]data: ?([^\r\n]*)")
  -- Most chunks say "usage": null.
  if not data or not find(data, '"usage"%s*:%s*{') then return false end
  if find(data, '"message_start"', 1, true) then
    if not state.started then
      state.started = true
      ship(handle, "first", data, EVENT_BYTES)
    end
    return false
  end
  local kind = match(data, '"type"%s*:%s*"response%.([%w_.]+)"')
  if kind then
    if LAST_RESPONSE[kind] then ship(handle, "last", from_last_usage(data), TAIL_BYTES) end
    return false
  end
  ship(handle, "last", data, EVENT_BYTES)
  return state.hide and find(data, '"choices"%s*:%s*%[%s*%]') ~= nil
end

-- Where the first event that ends at or after `from` ends: a blank line in any of SSE's line endings.
local function event_end(text, from, has_cr)
  local _, stop
  if not has_cr then
    _, stop = find(text, "\n\n", from, true)
    return stop
  end
  _, stop = find(text, "\n\r?\n", from)
  if not stop then _, stop = find(text, "\r\r", from, true) end
  return stop
end

-- Reads the whole events of a text whose first `seen` bytes were searched before. Gives what the
-- client may see of them, whether something was hidden, and the incomplete rest.
local function read_events(handle, state, text, seen)
  local has_cr = find(text, "\r", 1, true) ~= nil
  local shown, at = {}, 1
  local stop = event_end(text, math.max(1, seen - 2), has_cr)
  local kept = 1
  while stop do
    if read_event(handle, state, sub(text, at, stop)) then
      shown[#shown + 1] = sub(text, kept, at - 1)
      kept = stop + 1
    end
    at = stop + 1
    stop = event_end(text, at, has_cr)
  end
  shown[#shown + 1] = sub(text, kept, at - 1)
  return table.concat(shown), kept > 1, sub(text, at)
end

local function read_stream(handle, hide)
  local state = { hide = hide }
  local held, reading, last = "", true, nil
  for chunk in handle:bodyChunks() do
    last = chunk
    local size = chunk:length()
    if reading and size > 0 then
      local text = held .. chunk:getBytes(0, size)
      local ok, shown, hidden, rest = pcall(read_events, handle, state, text, #held)
      if not ok or #rest > HELD_BYTES then
        -- Nothing more is read, nothing more is held.
        reading, shown, hidden, rest = false, ok and shown .. rest or text, true, ""
      end
      if hide and (hidden or held ~= "" or rest ~= "") then chunk:setBytes(shown) end
      held = rest
    end
  end
  if held ~= "" then
    -- The stream ended inside an event. Its last piece is still ours to write to.
    local ok, hidden = pcall(read_event, handle, state, held)
    if hide and last and not (ok and hidden) then
      last:setBytes(last:getBytes(0, last:length()) .. held)
    end
  end
end

local function read_json(handle)
  local tail = ""
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size >= TAIL_BYTES then
      tail = chunk:getBytes(size - TAIL_BYTES, TAIL_BYTES)
    elseif size > 0 then
      tail = sub(tail .. chunk:getBytes(0, size), -TAIL_BYTES)
    end
  end
  ship(handle, "tail", from_last_usage(tail), TAIL_BYTES)
end

-- The seconds that a Retry-After says, now in milliseconds; nil for nonsense.
local function wait_s(text, now_ms)
  local seconds = match(text, "^(%d+%.?%d*)$")
  if seconds then return tonumber(seconds) end
  local day, name, year, hour, minute, second =
    match(text, "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$")
  local month = day and MONTHS[name]
  if not month then return nil end
  -- Years begin in March, so that the leap day is their last.
  year = month > 2 and tonumber(year) or year - 1
  local days = 365 * year + floor(year / 4) - floor(year / 100) + floor(year / 400)
    + floor((153 * ((month + 9) % 12) + 2) / 5) + day - 719469
  return math.max(0, ((days * 24 + hour) * 60 + minute) * 60 + second - now_ms / 1000)
end

-- A provider's failure, as it comes to the client: with a wait that a client can use, or none. Its
-- SDK is told not to retry by itself what would have it sleep for minutes.
local function temper(handle, headers)
  local longest_s = 0
  local after, after_ms = headers:get("retry-after"), headers:get("retry-after-ms")
  if after then
    local wait = wait_s(after, tonumber(handle:timestamp()))
    if wait then
      longest_s = math.min(math.ceil(wait), MAX_WAIT_S)
      headers:replace("retry-after", string.format("%d", longest_s))
    else
      headers:remove("retry-after")
    end
  end
  if after_ms then
    local wait = match(after_ms, "^%d+%.?%d*$") and tonumber(after_ms)
    if wait then
      wait = math.min(math.ceil(wait), MAX_WAIT_S * 1000)
      longest_s = math.max(longest_s, wait / 1000)
      headers:replace("retry-after-ms", string.format("%d", wait))
    else
      headers:remove("retry-after-ms")
    end
  end
  if longest_s > RETRIED_S then headers:replace("x-should-retry", "false") end
end

-- An error in place of an answer, for OpenAI's SDK and for Anthropic's.
local function bad_gateway(handle, headers, message)
  headers:replace(":status", "502")
  headers:replace("content-type", "application/json")
  for _, name in ipairs(SAID_OF_BODY) do headers:remove(name) end
  handle:body(true):setBytes(string.format(BAD_GATEWAY, message))
end

function envoy_on_response(handle)
  local verdict = handle:streamInfo():dynamicMetadata():get("tokenweir")
  if not (verdict and verdict.ok) then return end
  local headers = handle:headers()
  local status = tonumber(headers:get(":status"))
  local seen = verdict.caller and headers:get("x-tw-translated")
  if seen then headers:remove("x-tw-translated") end
  if status >= 400 then
    temper(handle, headers)
  elseif status >= 300 then
    -- An SDK would follow it, with the caller's key, to where no policy is.
    bad_gateway(handle, headers, "The provider answered with a redirect, which is not followed.")
    return
  elseif verdict.caller == "mcp" then
    return -- what tools answer is nobody's usage
  elseif verdict.caller and not seen then
    -- Decided by a policy that is newer than this request's filters: it may be in another dialect.
    -- The provider bills it all the same.
    ship(handle, "answered", "1", 1)
    bad_gateway(handle, headers, "The policy changed while this request waited. Ask again.")
    return
  end
  local kind = headers:get("content-type") or ""
  if find(kind, "text/event-stream", 1, true) then
    local hide = verdict.hide_usage == true
    -- The body gets shorter.
    if hide then headers:remove("content-length") end
    read_stream(handle, hide)
  elseif find(kind, "json", 1, true) then
    read_json(handle)
  end
end
