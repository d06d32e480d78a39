"""A function whose INIT fails with an exception."""

raise RuntimeError("the tide is out")
