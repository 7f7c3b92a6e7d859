"""Read-only queries: jobs, events, attempts, wait reasons, wake-ups."""
