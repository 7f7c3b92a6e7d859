"""Claiming jobs: which lanes have ready jobs, what the limits leave, and the UPDATE that takes ownership."""
