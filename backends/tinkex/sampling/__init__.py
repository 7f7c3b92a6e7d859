"""Sampling: completions of prompts, and samples of tokens."""
