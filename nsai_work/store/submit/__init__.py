"""Submitting jobs: all of a call in one transaction, or none."""
