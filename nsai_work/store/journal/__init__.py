"""The run journal: remote runs, intents, steps and checkpoints of training jobs, fenced by the fencing token."""
