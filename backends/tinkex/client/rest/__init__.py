"""The REST client: listings, checkpoints, exports and downloads."""
