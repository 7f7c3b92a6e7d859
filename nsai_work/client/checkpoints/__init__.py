"""Checkpoints of jobs: sampled from, downloaded, merged, promoted, and deleted with old jobs."""
