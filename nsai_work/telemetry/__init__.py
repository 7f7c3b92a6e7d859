"""Telemetry: logs, events of jobs for hooks, and traces."""
