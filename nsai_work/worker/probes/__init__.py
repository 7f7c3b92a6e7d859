"""Probes of a worker: health, metrics and loop lag, judged and served from threads that are not the event loop."""
