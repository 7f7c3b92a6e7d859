"""Telemetry: logs, events of jobs for hooks, traces, and the use of wall time."""
