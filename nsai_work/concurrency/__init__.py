"""Coroutines with early exits, coroutines for blocking callers, and threads for calls that may hang."""
