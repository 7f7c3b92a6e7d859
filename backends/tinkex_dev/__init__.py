"""A Tinker-compatible server for development and tests: real HTTP, real gradients, fault injection."""
