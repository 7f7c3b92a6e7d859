"""The training driver: data, plan, journal, resume."""
