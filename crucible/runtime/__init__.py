"""Running backends: event loops for callers that block, forks, monotonic time, checked calls, reports of waits."""
