"""Shared parts of backends that train in this process: runs, checkpoints on disk, recovery, generation."""
