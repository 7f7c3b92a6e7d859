"""How requests reach the service and results come back: the connection, futures, polling, probes of features."""
