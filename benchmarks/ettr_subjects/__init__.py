"""The subjects of ``ettr.py``: our job under two workers, and loops of one's own under a restart loop."""
