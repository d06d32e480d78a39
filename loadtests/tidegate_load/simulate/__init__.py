"""A large fleet of proxies, simulated with the proxy's own planner: see docs/fleet.md."""
