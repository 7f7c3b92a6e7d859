"""Alerts: messages about jobs to people and other programs, sent by workers through plug-ins."""
