"""The Envoy side: its configuration, generated from a policy snapshot, and its delivery."""
