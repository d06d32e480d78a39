"""The certificate that the proxy shows to its clients: where it comes from, how it is renewed, and theirs."""
