"""Clients of the Tinker API: one coroutine implementation with blocking and async entry points."""
