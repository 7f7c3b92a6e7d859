"""A small data set of conversations: sums and their results."""

import json
from pathlib import Path


def write_conversations(file: Path, count: int, question: str = "What is {n} plus {n}?") -> Path:
    """Write ``count`` conversations as JSON lines. Returns the file."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": question.format(n=n)},
                {"role": "assistant", "content": f"{n + n}."},
            ]
        }
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_pairs(path: Path, pairs: int) -> Path:
    """Write pairs of a better and a worse answer, which differ from line to line."""
    rows = [
        {
            "prompt": f"What is {number} plus 1?",
            "chosen": f"It is {number + 1}.",
            "rejected": "No idea" + "!" * number,
        }
        for number in range(1, pairs + 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
