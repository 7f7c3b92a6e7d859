"""Requests and their results: the connection, the encoding of passes, futures, polling, probes of features."""
