"""Maintenance that any worker may run: expired leases, delayed jobs, leader election, workers, pruning."""
