"""Dispatch: wake-ups over a message broker. Wraps Celery and kombu.

A wake-up names a job and its fencing token. It may be lost, duplicated, late or malformed without harm: the store
decides which jobs run, and where.
"""
