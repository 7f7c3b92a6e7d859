"""Any server that speaks OpenAI's chat completions: vLLM, SGLang, Ollama, hosted ones. Extra: ``openai``."""

from backends.openai.backend import OpenAIBackend

__all__ = ["OpenAIBackend"]
