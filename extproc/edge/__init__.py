"""Everything that touches the world: sockets, files, processes, clocks, logs."""
