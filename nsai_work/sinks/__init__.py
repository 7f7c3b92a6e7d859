"""Sinks: where the metrics of training runs are written besides the store, each step once."""
