"""The wire: HTTP, encodings, retries, and what is learned of a server."""
