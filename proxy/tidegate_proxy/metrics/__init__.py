"""What the proxy counts, and the forms in which it tells it: the console, CloudWatch, Prometheus."""
