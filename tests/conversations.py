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
