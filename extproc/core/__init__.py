"""The decision. Events in, commands out; no gRPC, Redis, clock, asyncio or logging."""
