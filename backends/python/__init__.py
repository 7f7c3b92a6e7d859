"""The ``python`` backend: runs functions, by entry-point name or as ``package.module:function``."""

from backends.python.backend import PythonBackend

__all__ = ["PythonBackend"]
