"""Anthropic messages, as callers speak it and as providers do."""
