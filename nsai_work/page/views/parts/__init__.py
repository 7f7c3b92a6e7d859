"""Parts of views: lines of jobs, logs and waits, key figures, the use of time, and the data of a curve."""
