"""Who has spent what: reserve, settle, release, expire over counters with windows."""
