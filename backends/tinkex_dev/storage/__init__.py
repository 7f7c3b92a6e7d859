"""The state folder: what survives a restart."""
