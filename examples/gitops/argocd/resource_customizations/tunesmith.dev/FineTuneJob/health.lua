-- How Argo CD sees a FineTuneJob, by the conditions that its operator writes (kstatus: Ready, Reconciling, Stalled).
--
--   Healthy      the model is served and proven, or the dry run proved all that it can
--   Degraded     somebody must act; it is not tried again before that
--   Suspended    somebody set `spec.suspend`, and nothing runs any more
--   Progressing  all else. A job that waits for a GPU, a quota or its place in a queue goes on by itself
--
-- The message is that of `Ready`: it changes when the job gets somewhere, not with every training step. An application
-- controller that is told every few seconds of each job's loss would have nothing else to do.

local function condition(kind)
  for _, found in ipairs(obj.status.conditions) do
    if found.type == kind then
      return found
    end
  end
  return {status = "Unknown", reason = "Unknown", message = ""}
end

if obj.status == nil or obj.status.conditions == nil then
  return {status = "Progressing", message = "the operator has not seen the job yet"}
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not seen the newest spec yet"}
end

local ready = condition("Ready")
local message = ready.reason .. ": " .. ready.message
if ready.status == "True" then
  return {status = "Healthy", message = message}
end
if condition("Stalled").status == "True" then
  return {status = "Degraded", message = message}
end
if ready.reason == "Suspended" then
  return {status = "Suspended", message = message}
end
return {status = "Progressing", message = message}
