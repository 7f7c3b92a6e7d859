"""The page: an HTTP server that shows jobs, their curves, the queue and the workers, live."""
