"""Attempts: running a claimed job on its backend, its files and waits, and how it ended."""
