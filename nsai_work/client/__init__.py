"""The client side: submitting jobs, reading job files, job handles, promoting checkpoints."""
