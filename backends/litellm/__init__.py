"""Every provider that LiteLLM reaches, by LiteLLM's own model names. Extra: ``litellm``."""

from backends.litellm.backend import LiteLLMBackend

__all__ = ["LiteLLMBackend"]
