"""The LiteLLM backend: all providers that LiteLLM supports, by its model names. Extra: ``litellm``."""

from backends.litellm_backend.backend import LiteLLMBackend

__all__ = ["LiteLLMBackend"]
