"""The fake backend: a tiny model trained in this process, with scripted failures. For tests and experiments."""

from backends.fake.backend import FakeBackend

__all__ = ["FakeBackend"]
