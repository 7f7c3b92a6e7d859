"""The safetensors format, for named arrays in one file: header length, JSON header, data."""

import json
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NAMES: Final = {"<f4": "F32", "<f8": "F64", "<i8": "I64"}
_TYPES: Final = {name: np.dtype(code) for code, name in _NAMES.items()}


def pack(arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialize arrays deterministically: equal arrays give equal bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts: list[bytes] = []
    end = 0
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        body = value.tobytes()
        header[key] = {
            "dtype": _NAMES[value.dtype.newbyteorder("<").str],
            "shape": list(np.shape(arrays[key])),
            "data_offsets": [end, end + len(body)],
        }
        parts.append(body)
        end += len(body)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpack(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Parse the bytes of :func:`pack`.

    Raises:
        ValueError: the bytes are truncated or malformed.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ValueError(f"the header is truncated: {len(data)} bytes in all")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + size :]
    arrays: dict[str, NDArray[np.generic]] = {}
    for key, entry in header.items():
        start, end = entry["data_offsets"]
        if end > len(body):
            raise ValueError(f"array {key!r} is truncated: it ends at byte {end} of {len(body)}")
        arrays[key] = np.frombuffer(body[start:end], dtype=_TYPES[entry["dtype"]]).reshape(entry["shape"]).copy()
    return arrays
