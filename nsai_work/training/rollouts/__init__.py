"""Reinforcement learning: rollouts of a step, sampled once and kept in the journal, and the batches made of
them."""
