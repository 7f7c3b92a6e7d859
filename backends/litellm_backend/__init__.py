"""Every provider that LiteLLM reaches, by LiteLLM's own model names. Extra: ``litellm``."""

from backends.litellm_backend.backend import LiteLLMBackend

__all__ = ["LiteLLMBackend"]
