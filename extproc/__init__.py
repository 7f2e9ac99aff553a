"""Tokenweir: an AI gateway whose budgets are bounds, not reports. See ARCHITECTURE.md."""

__version__ = "0.1.0"
