"""Code of other packages, which may end as no program expects it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plugin_code() -> Iterator[None]:
    """Run code of a plug-in. An exception that is no ``Exception``, such as that of ``sys.exit()``, would end this
    process without a word, or with success; it becomes an ImportError. Ctrl-C stays what it is."""
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ImportError(f"it raised {type(error).__name__}({error})") from error
