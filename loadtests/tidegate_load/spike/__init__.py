"""The spike: hundreds of invocations at once against one PostgreSQL, recorded, judged and drawn."""
