"""An STS for tests, benchmarks and local use, which truly verifies signatures and knows only made-up principals."""
