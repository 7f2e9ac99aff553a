"""Policy text to an immutable snapshot. Pure: bytes in, snapshot or findings out."""
