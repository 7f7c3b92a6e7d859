"""The validation of jobs before they are stored."""
