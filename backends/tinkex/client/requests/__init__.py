"""Requests and their results: the connection, futures, polling, probes of features."""
