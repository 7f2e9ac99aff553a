"""OpenAI chat completions, as callers speak it and as providers do."""
