"""Sources of batches: the examples of each step, from data files or from preference pairs."""
