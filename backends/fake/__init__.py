"""The scripted backend: a small real model in this process, no server. For tests and for trying things out."""

from backends.fake.backend import FakeBackend

__all__ = ["FakeBackend"]
