"""Ray: its session, its processes, and the grid of workers on it."""
