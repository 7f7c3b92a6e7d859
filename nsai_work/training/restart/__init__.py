"""Restarts: how a next owner enters a run, what it resumes from, its proof, and decisions after failures."""
