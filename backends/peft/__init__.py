"""Training and completion on this machine with transformers and PEFT on torch. Extra: ``peft``."""

from backends.peft.backend import PeftBackend

__all__ = ["PeftBackend"]
