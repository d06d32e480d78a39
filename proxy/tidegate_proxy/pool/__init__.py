"""Pools of server connections: decisions in `planner`, mechanics in `pool`, what sessions need in `session`."""
