-- Finds usage in responses and ships it as metadata; hides the usage chunk that was injected.
--
-- It never holds back more than an incomplete event or line, and never changes a byte of anything
-- but the hidden chunk. If it fails, Envoy passes the rest unchanged and the request is charged at
-- its reservation: only the report is lost.

local NAMESPACE = "tokenweir.usage"
local TAIL_BYTES = 16384   -- of a JSON body; usage stands at its end
local EVENT_BYTES = 8192   -- of one shipped event
local HELD_BYTES = 1048576 -- an event longer than this passes unread

-- The part of a JSON text from its last "usage": key on. An escaped quote before the word means it
-- is inside a string, i.e. model output.
local function usage_tail(text)
  local found, at = nil, 1
  while true do
    local start = string.find(text, '"usage"', at, true)
    if not start then break end
    if start == 1 or string.sub(text, start - 1, start - 1) ~= "\\" then found = start end
    at = start + 7
  end
  return found and string.sub(text, found) or nil
end

local function ship(handle, key, value)
  if #value <= TAIL_BYTES then
    handle:streamInfo():dynamicMetadata():set(NAMESPACE, key, value)
  end
end

-- Looks at one event; says whether the client may see it.
local function event_seen(handle, state, event)
  if not string.find(event, '"usage"', 1, true) then return true end
  local data = string.match(event, "data: ?([^\r\n]*)")
  if not data then return true end
  if string.find(data, '"message_start"', 1, true) and not state.first then
    state.first = true
    ship(handle, "first", data)
    return true
  end
  if string.find(data, '"response.', 1, true) then
    if string.find(data, '"type": ?"response%.completed"')
      or string.find(data, '"type": ?"response%.incomplete"')
      or string.find(data, '"type": ?"response%.failed"') then
      local tail = usage_tail(data)
      if tail then ship(handle, "last", tail) end
    end
    return true
  end
  if string.find(data, '"usage": ?null') then return true end
  if #data <= EVENT_BYTES then ship(handle, "last", data) end
  return not (state.hide and string.find(data, '"choices": ?%[%]'))
end

-- The end of the first whole event in the text, or nil: a blank line in any of SSE's line endings.
local function event_end(text, from)
  local best
  for _, blank in ipairs({ "\n\n", "\r\n\r\n", "\r\r" }) do
    local _, stop = string.find(text, blank, from, true)
    if stop and (not best or stop < best) then best = stop end
  end
  return best
end

local function stream(handle, state)
  local held = ""
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      local bytes = chunk:getBytes(0, size)
      local text = held .. bytes
      local shown, at, hidden = {}, 1, false
      while true do
        local stop = event_end(text, at)
        if not stop then break end
        local event = string.sub(text, at, stop)
        if event_seen(handle, state, event) then
          shown[#shown + 1] = event
        else
          hidden = true
        end
        at = stop + 1
      end
      local rest = string.sub(text, at)
      if state.hide then
        -- Whole events leave now; an incomplete one waits, for it may be the one to hide.
        if #rest > HELD_BYTES then
          shown[#shown + 1] = rest
          rest = ""
        end
        if hidden or held ~= "" or rest ~= "" then chunk:setBytes(table.concat(shown)) end
        held = rest
      else
        held = #rest > HELD_BYTES and "" or rest
      end
    end
  end
  return held
end

local function json(handle)
  local tail = ""
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size >= TAIL_BYTES then
      tail = chunk:getBytes(size - TAIL_BYTES, TAIL_BYTES)
    elseif size > 0 then
      tail = tail .. chunk:getBytes(0, size)
      if #tail > TAIL_BYTES then tail = string.sub(tail, -TAIL_BYTES) end
    end
  end
  local usage = usage_tail(tail)
  if usage then ship(handle, "tail", usage) end
end

function envoy_on_response(handle)
  local verdict = handle:streamInfo():dynamicMetadata():get("tokenweir")
  if not (verdict and verdict["ok"]) then return end
  local kind = handle:headers():get("content-type") or ""
  if string.find(kind, "text/event-stream", 1, true) then
    stream(handle, { hide = verdict["hide_usage"] == true })
  elseif string.find(kind, "json", 1, true) then
    json(handle)
  end
end
