"""Sinks of jobs in the journal."""
