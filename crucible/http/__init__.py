"""Parts of HTTP clients: bounded answers, decompression, retry delays, redaction."""
