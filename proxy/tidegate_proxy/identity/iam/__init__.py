"""Clients that log in with AWS credentials: by a token for the proxy, or by one for the database."""
