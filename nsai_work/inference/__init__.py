"""Inference jobs: complete a single prompt or a file of prompts."""

from nsai_work.inference.output import refuse_existing
from nsai_work.inference.prompts import pin_prompts
from nsai_work.inference.run import run_inference
from nsai_work.inference.score import AnswerScorer, score_problem

__all__ = ["AnswerScorer", "pin_prompts", "refuse_existing", "run_inference", "score_problem"]
