"""The wire protocol: HTTP transport, encodings, retries and known server features."""
