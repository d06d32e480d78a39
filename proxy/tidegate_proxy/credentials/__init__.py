"""What the proxy logs in to servers with: passwords, secrets that rotate, IAM tokens, clients' own keys."""
