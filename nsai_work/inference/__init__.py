"""Inference jobs: one prompt, or a file of them."""

from nsai_work.inference.prompts import pin_prompts
from nsai_work.inference.run import run_inference

__all__ = ["pin_prompts", "run_inference"]
