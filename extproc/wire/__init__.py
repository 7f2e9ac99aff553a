"""Bytes to values and back: headers, JSON bodies, usage, error bodies. Bounded, no I/O."""
