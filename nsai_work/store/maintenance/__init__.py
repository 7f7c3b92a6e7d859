"""Maintenance by any worker: leases, rescue, due jobs, leader election, the registry of workers, pruning."""
