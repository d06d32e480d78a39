"""The proxy as a member of a fleet: members find each other in PostgreSQL itself, and share its connections."""
