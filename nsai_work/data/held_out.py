"""The rows that are held out for an evaluation: a split of the data by content, and rows that are on both sides."""

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from nsai_work.data.example import Example
from nsai_work.errors import InvalidJob

_HASH_BITS: Final = 64


def content_hash(example: Example) -> int:
    """Return a hash of an example's content in a canonical form, of 64 bits: equal for equal rows, whatever their
    place and the layout of their file."""
    content: object = example.content if example.rejected is None else [example.content, example.rejected.content]
    if example.choices:
        content = [[choice.content, share] for choice, share in example.choices]
    images = [image.sha256 for each in (example, example.rejected) if each is not None for image in each.images]
    if images:
        content = [content, images]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return int.from_bytes(blake2b(text.encode(), digest_size=_HASH_BITS // 8).digest())


def is_held_out(example: Example, split: float) -> bool:
    """Return whether an example belongs to the evaluation's split of the data.

    The example's content alone decides. So equal rows are never on both sides, and rows that are added move no
    other.
    """
    return content_hash(example) < split * 2.0**_HASH_BITS


def split_sources(
    sources: Sequence[Sequence[Example]], split: float
) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Return the indexes of the examples to train on, and of those to evaluate, of each source of the data.

    Raises:
        InvalidJob: no example of a source is left to train on, or none at all to evaluate.
    """
    held_out = [[is_held_out(example, split) for example in examples] for examples in sources]
    training = [[index for index, held in enumerate(each) if not held] for each in held_out]
    evaluated = [[index for index, held in enumerate(each) if held] for each in held_out]
    empty = next((index for index, left in enumerate(training) if not left), None)
    if empty is not None:
        whose = "the data" if len(sources) == 1 else f"payload.data.sources[{empty}]"
        raise _refused(split, f"it leaves no example for training of the {len(sources[empty])} in {whose}")
    if not any(evaluated):
        count = sum(map(len, sources))
        raise _refused(split, f"it leaves no example for evaluation of the {count} in the data")
    return [*training], [*evaluated]


def _refused(split: float, problem: str) -> InvalidJob:
    return InvalidJob.of("payload.eval.split", split, f"{problem}; give another part, or eval.data")


def count_overlap(training: Iterable[Example], held_out: Sequence[Example]) -> int:
    """Return how many of the held-out examples are among those to train on, by content."""
    wanted = [content_hash(example) for example in held_out]
    left = set(wanted)
    found = {each for example in training if (each := content_hash(example)) in left}
    return sum(each in found for each in wanted)
