"""A fast generator of hostile JSON, bytes and protobuf, deterministic by its seed; and the loop of a target.

``NSAI_FUZZ=100000`` makes as many inputs of each target; by default there are few. hypothesis shrinks what it
finds, but is slow.
"""

import os
import random
from collections.abc import Callable
from typing import Any

from crucible import CrucibleError

INPUTS = int(os.environ.get("NSAI_FUZZ", "40"))
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 429, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "429", "x", "\ud800", "\x1b[31m", "\u202e", "corrupted"),
    *("not found", "NaN", "stop", "text", "data:", "é" * 300, [], {}, [[]], {"": {}}),
)


def run_target(name: str, target: Callable[[random.Random], None], inputs: int = INPUTS) -> None:
    """Call a target with as many generators. Fails for an exception outside of the family, naming the seed."""
    for seed in range(inputs):
        try:
            target(random.Random(seed))
        except CrucibleError:
            continue
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {error!r}") from error


def hostile(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON."""
    kind = rng.random()
    if depth > 3 or kind < 0.6:
        return rng.choice(SCALARS)
    items = [hostile(rng, depth + 1) for _ in range(rng.randrange(4))]
    return items if kind < 0.8 else {rng.choice(("a", "loc", "msg", "message", "code", "")): item for item in items}


def mutated(rng: random.Random, base: Any) -> Any:
    """A value with some of its parts replaced, renamed, removed or repeated."""
    if rng.random() < 0.06:
        return hostile(rng)
    if isinstance(base, dict):
        return {
            name if rng.random() > 0.03 else "x": mutated(rng, value)
            for name, value in base.items()
            if rng.random() > 0.04
        }
    if isinstance(base, list):
        return [mutated(rng, item) for item in base] * rng.choice((1,) * 12 + (0, 2, 3))
    return base


def damaged(rng: random.Random, base: bytes) -> bytes:
    """Bytes with some of them changed, cut, inserted or repeated."""
    data = bytearray(base)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] = rng.randrange(256)
            case 1:
                data[at : at + rng.randrange(20)] = b""
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(8))
            case 3:
                data[at:at] = data[at : at + rng.randrange(60)]
            case _ if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def random_message(rng: random.Random, depth: int = 0) -> bytes:
    """A protobuf message of random fields, some of them malformed."""
    return b"".join(_field(rng, depth) for _ in range(rng.randrange(5)))


def _field(rng: random.Random, depth: int) -> bytes:
    number, wire_type = rng.randrange(10), rng.choice((0, 1, 2, 2, 2, 2, 5, rng.randrange(8)))
    key = _varint(number << 3 | wire_type)
    match wire_type:
        case 0:
            return key + _varint(rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, rng.randrange(1 << 70))))
        case 1:
            return key + rng.randbytes(8)
        case 5:
            return key + rng.randbytes(4)
        case 2:
            content = random_message(rng, depth + 1) if depth < 5 and rng.random() < 0.7 else _content(rng)
            size = len(content) if rng.random() < 0.97 else rng.randrange(1 << rng.randrange(1, 66))
            return key + _varint(size) + content
        case _:
            return key + rng.randbytes(3)


def _content(rng: random.Random) -> bytes:
    return rng.choice(
        (b"", b"weights", b"float32", b"cross_entropy", rng.randbytes(rng.randrange(24)), b"\xff" * 8)
    )


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
