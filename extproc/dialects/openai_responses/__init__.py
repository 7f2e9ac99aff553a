"""OpenAI Responses, as callers (Codex above all) speak it and as providers do."""
