"""Losses that the caller computes: traced, or from log-probabilities and their gradients."""
