"""The PEFT backend: training and completions on this machine with torch and transformers. Extra: ``peft``."""

from backends.peft.backend import PeftBackend

__all__ = ["PeftBackend"]
