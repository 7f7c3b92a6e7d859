"""The arithmetic: a tiny language model with low-rank adapters, its losses, its optimizer and its sampler."""
