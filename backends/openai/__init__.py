"""The OpenAI backend: any server with OpenAI's chat completions API, such as vLLM or Ollama. Extra: ``openai``."""

from backends.openai.backend import OpenAIBackend

__all__ = ["OpenAIBackend"]
