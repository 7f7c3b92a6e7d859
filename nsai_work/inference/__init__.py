"""Inference jobs: complete a single prompt or a file of prompts."""

from nsai_work.inference.prompts import pin_prompts
from nsai_work.inference.run import run_inference

__all__ = ["pin_prompts", "run_inference"]
