"""The per-message path: one client connection, one server connection, and what passes between them."""
