"""The journal of reinforcement learning: rollouts with their turns, and the policies that they come from."""
