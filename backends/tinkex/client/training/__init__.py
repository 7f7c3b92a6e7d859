"""The training client of a run: passes and steps in sequence, saved states, and their results."""
