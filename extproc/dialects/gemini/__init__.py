"""Gemini's generateContent, on Google AI and on Vertex: a target's dialect only."""
