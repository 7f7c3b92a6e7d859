"""Data of each shape that the recipes read, a file each."""

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from tests.families.environments import compared


def write_rows(folder: Path) -> None:
    """Write the files."""
    talk = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    pair = {"chosen": "This.", "rejected": "That."}
    files: dict[str, list[dict[str, Any]]] = {
        "conversations.jsonl": [
            {
                "messages": [
                    {"role": "user", "content": f"Which is {n}?"},
                    {"role": "assistant", "content": "This." + "." * (n % 5)},
                ]
            }
            for n in range(20)
        ],
        "comparisons.jsonl": [_comparison(n) for n in range(20)],
        "preferences.jsonl": [pair | {"prompt": f"Which is {n}?"} for n in range(20)],
        "sums.jsonl": [{"prompt": f"{n}+1=", "answer": n + 1} for n in range(9)],
        "decisions.jsonl": [
            {"prompt": f"{n}?", "prefill": "choice#", "choices": {"Y": float(n % 2), "N": float(1 - n % 2)}}
            for n in range(20)
        ],
        "outcomes.jsonl": [
            {"prompt": f"Market {n}?", "prefill": "choice#", "choices": {"Y": float(n % 2), "N": float(1 - n % 2)}}
            for n in range(20)
        ],
        "demonstrations.jsonl": [{"prompt": f"Which is {n}?", "answer": f"This {n}."} for n in range(9)],
        "pictures.jsonl": [{"messages": [_pictured(n), talk[1]]} for n in range(9)],
        "questions.jsonl": [{"prompt": f"Which is {n}?"} for n in range(9)],
        "prompts.jsonl": [
            {"messages": [{"role": "user", "content": f"Which is {n}?"}], "options": {"seed": n, "max_tokens": 8}}
            for n in range(12)
        ],
        "thoughts.jsonl": [
            {
                "messages": [
                    {"role": "user", "content": f"Which is {n}?"},
                    {"role": "assistant", "content": f"So {n}."},
                ]
            }
            for n in range(12)
        ],
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _comparison(number: int) -> dict[str, Any]:
    """A comparison of two answers, of which the better is the first or the second by turns."""
    answers = ("This.", "That.") if number % 2 else ("That.", "This.")
    choices = {"A": float(number % 2), "B": float(1 - number % 2)}
    return {"prompt": compared(number, *answers), "choices": choices}


def _pictured(number: int) -> dict[str, Any]:
    """A question about an image of one gray pixel."""
    pixel = zlib.compress(bytes([0, number]))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"IDAT", pixel), (b"IEND", b"")]
    image = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"Which is {number}?"}]
    return {"role": "user", "content": parts}
