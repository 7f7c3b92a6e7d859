"""The request channel of a run: requests in sequence, and probes of how its server treats their numbers."""
