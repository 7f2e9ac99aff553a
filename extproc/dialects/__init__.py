"""Faithful translation between provider APIs: one module per dialect, one shared conversation."""
