"""The training driver: data, step plan, pipeline, checkpoints, recovery and resume proof."""
