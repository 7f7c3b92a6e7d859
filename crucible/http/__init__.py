"""What every client of an HTTP service needs: bounded answers, decompression, retry delays, redaction."""
