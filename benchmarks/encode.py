"""From arrays to wire bytes and back, against the official SDK in the same process: time and memory, as ratios.

    python benchmarks/encode.py [--runs 9] [--json] [--strict] [--sdk PYTHON]

Both run in the same process, which is one of a Python that has the official ``tinker``: by default that of the
peers' environment of its newest version (``python tests/peers/provision.py sdk-0.38.0``).

One batch: 128 datums of 4,096 tokens (uniform over a vocabulary of 151,936) with targets, weights,
log-probabilities and advantages. Times are those of the processor, the best of several runs. Memory is the peak of
the process beyond what it held with the batch, taken in a forked child that does the work once (Linux; elsewhere
what Python allocated).
"""

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from own_processes import run_main
from peer_environment import NEWEST_SDK, how_to_install, peer_python

DATUMS, TOKENS, VOCABULARY = 128, 4096, 151_936
AIMS = {"numpy": 10.0, "lists": 3.0, "zstd": 2.0, "decode": 1.0}
CLEAR_REFS = Path("/proc/self/clear_refs")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """What one way of doing it took."""

    seconds: float
    extra_bytes: int


def main() -> int:
    """Measure, print, and fail where an aim is missed and ``--strict`` was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when an aim is missed")
    parser.add_argument("--sdk", type=Path, default=peer_python(NEWEST_SDK))
    chosen = parser.parse_args()
    if importlib.util.find_spec("tinker") is None:
        return _elsewhere(chosen.sdk)
    sys.path.insert(0, str(ROOT))
    found = measure(chosen.runs)
    print(json.dumps(found, indent=2) if chosen.json else _table(found))
    missed = [name for name, aim in AIMS.items() if found[name]["ratio"] < aim]
    if missed:
        print(f"below the aim: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed and chosen.strict else 0


def _elsewhere(python: Path | None) -> int:
    if python is None:
        print(f"the official SDK is not installed here; {how_to_install(NEWEST_SDK)}", file=sys.stderr)
        return 2
    return os.execv(python, [str(python), *sys.argv])


def measure(runs: int) -> dict[str, Any]:
    """All figures, ours and theirs."""
    raw = _raw()
    found: dict[str, Any] = {}
    ours, theirs = _our_batch(raw), _their_batch(raw)
    found["numpy"] = _compared(lambda: _their_bytes(theirs), lambda: _our_bytes(ours), runs)
    lists = [[numbers.tolist() for numbers in row] for row in raw]
    found["lists"] = _compared(
        lambda: _their_bytes(_their_batch(lists)), lambda: _our_bytes(_our_batch(lists)), runs
    )
    found["zstd"] = _compared(lambda: _their_zstd(theirs), lambda: _our_zstd(ours), runs)
    assert _same_message(_our_bytes(ours).joined(), _their_bytes(theirs))
    answer = _answer(raw)
    found["decode"] = _compared(lambda: _their_output(answer), lambda: _our_output(answer), runs)
    found["body"] = {
        "bytes": _our_bytes(ours).size,
        "zstd_bytes_ours": _our_zstd(ours).size,
        "zstd_bytes_theirs": len(_their_zstd(theirs)),
        "answer_bytes": len(answer),
    }
    return found


def _compared(theirs: Callable[[], Any], ours: Callable[[], Any], runs: int) -> dict[str, float]:
    """Taken in turns, so that what else the machine does falls on both."""
    extra = [_extra(theirs), _extra(ours)]
    best = [float("inf"), float("inf")]
    for _ in range(runs):
        for side, work in enumerate((theirs, ours)):
            gc.collect()
            begun = time.process_time()
            work()
            best[side] = min(best[side], time.process_time() - begun)
    costs = [Cost(seconds, size) for seconds, size in zip(best, extra, strict=True)]
    return {
        "theirs_ms": costs[0].seconds * 1e3,
        "ours_ms": costs[1].seconds * 1e3,
        "ratio": costs[0].seconds / costs[1].seconds,
        "theirs_extra_mib": costs[0].extra_bytes / 2**20,
        "ours_extra_mib": costs[1].extra_bytes / 2**20,
    }


def _extra(work: Callable[[], Any]) -> int:
    """The peak of memory beyond what is there now."""
    if not CLEAR_REFS.exists():
        return _allocated(work)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(_resident_peak(work)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        size = int(said.read())
    os.waitpid(child, 0)
    return size


def _resident_peak(work: Callable[[], Any]) -> int:
    gc.collect()
    gc.disable()  # a collection would touch, and so copy, pages shared with the parent
    CLEAR_REFS.write_text("5")  # sets the peak back to what is resident now
    before = _status("VmRSS")
    kept = work()
    peak = _status("VmHWM") - before
    del kept
    return peak


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _allocated(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return peak - before


def _raw() -> list[tuple[Any, ...]]:
    import numpy as np

    draw = np.random.default_rng(0)
    return [
        (
            draw.integers(0, VOCABULARY, TOKENS).astype(np.int32),
            draw.integers(0, VOCABULARY, TOKENS),
            draw.random(TOKENS, dtype=np.float32),
            -draw.random(TOKENS, dtype=np.float32),
            draw.standard_normal(TOKENS, dtype=np.float32),
        )
        for _ in range(DATUMS)
    ]


_NAMES = ("target_tokens", "weights", "logprobs", "advantages")


def _our_batch(raw: Any) -> Any:
    from backends.tinkex import types

    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(tokens), loss_fn_inputs=dict(zip(_NAMES, rest, strict=True))
        )
        for tokens, *rest in raw
    ]


def _their_batch(raw: Any) -> Any:
    from tinker import types

    # The SDK takes token ids as lists only.
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(tokens if isinstance(tokens, list) else tokens.tolist()),
            loss_fn_inputs=dict(zip(_NAMES, rest, strict=True)),
        )
        for tokens, *rest in raw
    ]


def _our_bytes(batch: Any) -> Any:
    from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, encoded_datums, write_pass_request

    # As the client does: with a copy, since the caller may change its arrays after the call.
    encoded = encoded_datums(batch)
    return write_pass_request(
        PassRequest("run:train:0", 1, (), "ppo", {"clip_low_threshold": 0.8}, encoded=encoded)
    )


def _our_zstd(batch: Any) -> Any:
    from backends.tinkex.wire.compression import compressed

    return compressed(_our_bytes(batch))


def _their_bytes(batch: Any) -> bytes:
    from tinker import types
    from tinker.proto.request_conv import forward_backward_request_to_proto
    from tinker.types.forward_backward_request import ForwardBackwardRequest

    given = types.ForwardBackwardInput(data=batch, loss_fn="ppo", loss_fn_config={"clip_low_threshold": 0.8})
    request = ForwardBackwardRequest(forward_backward_input=given, model_id="run:train:0", seq_id=1)
    message: bytes = forward_backward_request_to_proto(request).SerializeToString()
    return message


def _their_zstd(batch: Any) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(_their_bytes(batch))


def _same_message(ours: bytes, theirs: bytes) -> bool:
    from tinker.proto import tinker_public_pb2 as schema

    kind = schema.ForwardBackwardRequest
    return bool(kind.FromString(ours) == kind.FromString(theirs))


def _answer(raw: Any) -> bytes:
    from backends.tinkex.wire.protobuf.pass_output_codec import write_pass_output

    outputs = [{"logprobs": row[3], "elementwise_loss": row[4]} for row in raw]
    return write_pass_output(outputs, {"loss:sum": 1.0}).joined()


def _our_output(answer: bytes) -> Any:
    from backends.tinkex.wire.protobuf.pass_output_codec import read_pass_output

    return read_pass_output(answer)


def _their_output(answer: bytes) -> Any:
    from tinker.proto.response_conv import deserialize_forward_backward_output

    return deserialize_forward_backward_output(answer)


_TITLES = {
    "numpy": "arrays to wire bytes",
    "lists": "plain lists to wire bytes",
    "zstd": "arrays to zstd",
    "decode": "answer to arrays",
}


def _table(found: dict[str, Any]) -> str:
    lines = [f"{DATUMS} datums x {TOKENS} tokens, {found['body']['bytes'] / 1e6:.1f} MB on the wire"]
    lines.append(f"{'':26}{'SDK ms':>9}{'ours ms':>9}{'faster':>9}{'aim':>7}{'SDK MiB':>10}{'ours MiB':>10}")
    for name, title in _TITLES.items():
        one = found[name]
        lines.append(
            f"{title:26}{one['theirs_ms']:9.2f}{one['ours_ms']:9.2f}{one['ratio']:8.1f}x{AIMS[name]:6.0f}x"
            f"{one['theirs_extra_mib']:10.2f}{one['ours_extra_mib']:10.2f}"
        )
    body = found["body"]
    lines.append(
        f"zstd: {body['zstd_bytes_ours'] / 1e6:.2f} MB ours, {body['zstd_bytes_theirs'] / 1e6:.2f} MB theirs"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
