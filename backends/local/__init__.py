"""What backends that train in this process share: runs, checkpoints on disk, recovery. No backend of its own."""
