"""The PostgreSQL servers behind the proxy: who they are, how they are, and which of them a pool should use."""
