"""PostgreSQL's protocol without I/O: bytes in, values out, and the other way round.

Nothing in this folder imports asyncio, socket, time or logging; a test enforces it.
"""
