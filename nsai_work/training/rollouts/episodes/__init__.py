"""Episodes as the model plays them: turns, rollouts and groups, from the journal or sampled now."""
