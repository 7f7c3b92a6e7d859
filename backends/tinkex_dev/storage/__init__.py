"""The state folder: records and checkpoints that survive a restart, and the log of effects."""
