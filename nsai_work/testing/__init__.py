"""Tools for the tests of code that submits jobs: an isolated store, an inline worker, a virtual clock, assertions.

    from nsai_work.testing import assert_submitted, isolated_store, run_jobs

    def test_the_nightly_training():
        with isolated_store():
            my_code.start_nightly_training()
            assert_submitted(kind="training_step", payload={"base_model": "llama-3.2-1b"})

With pytest, ``pytest_plugins = ["nsai_work.testing.pytest"]`` in ``conftest.py`` adds fixtures of the same names.
"""

from crucible.runtime.lazy_names import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
