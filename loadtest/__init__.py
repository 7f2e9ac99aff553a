"""Load tests: what the gateway costs, measured beside what it is compared with."""
