"""Sockets: accepting clients, connecting to servers, and the streams over which both log in."""
