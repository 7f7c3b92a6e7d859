"""Stop requests and early exits of coroutines, coroutines for blocking callers, threads for calls that may hang."""
