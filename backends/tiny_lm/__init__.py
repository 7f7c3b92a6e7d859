"""A tiny language model in numpy, with low-rank adapters, losses, Adam and a sampler.

Shared by the development server and the fake backend.
"""
