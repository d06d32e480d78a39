"""A tiny Django app with migrations."""
