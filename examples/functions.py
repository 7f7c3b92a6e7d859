"""Functions for jobs of the ``python`` backend: see docs/howto/run-functions.md."""

import asyncio
import csv
import time
from typing import Any

from nsai_work.functions import Context


def convert(quantity: float, unit: str) -> dict[str, Any]:
    """Convert a kitchen measure to millilitres: a tool for a model."""
    millilitres = {"teaspoon": 4.93, "tablespoon": 14.79, "cup": 236.59}
    return {"millilitres": round(quantity * millilitres[unit], 2)}


def sweep(learning_rates: list[float], context: Context, steps: int = 50) -> dict[str, Any]:
    """Minimize x² by gradient descent with each learning rate, and write all losses to a file: an experiment."""
    file = context.folder / "losses.csv"
    final: dict[str, float] = {}
    with file.open("w", newline="") as output:
        writer = csv.writer(output)
        for done, rate in enumerate(learning_rates):
            x = 1.0
            for step in range(steps):
                context.check()
                writer.writerow([rate, step, x * x])
                x -= rate * 2 * x
            final[str(rate)] = x * x
            context.progress(done + 1, len(learning_rates), f"learning rate {rate}")
    return {"best": min(final, key=lambda rate: final[rate]), "losses": file}


def keep_distinct(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the first of equal answers, as conversations to train on: a filter between two jobs."""
    kept: dict[str, dict[str, Any]] = {}
    for answer in answers:
        if "completion" in answer:
            message = answer["completion"]["choices"][0]["message"]
            kept.setdefault(message["content"].strip().lower(), {"messages": [*answer["messages"], message]})
    return list(kept.values())


def unless_cut(row: dict[str, Any]) -> dict[str, Any] | None:
    """Map an answer to a conversation to train on, and drop one that was cut."""
    if "completion" not in row or row["completion"]["choices"][0]["finish_reason"] == "length":
        return None
    message = row["completion"]["choices"][0]["message"]
    return {"messages": [*row["messages"], {"role": "assistant", "content": message["content"]}]}


async def summarize(losses: list[float]) -> dict[str, float]:
    """Summarize losses: a step of a workflow, asynchronous."""
    await asyncio.sleep(0)
    return {"lowest": min(losses), "mean": sum(losses) / len(losses)}


def clean_up(older_than_days: float, context: Context) -> dict[str, int]:
    """Delete the files of old jobs, those beside this job's folder: an operation on the backend itself."""
    oldest = time.time() - older_than_days * 86_400
    deleted = 0
    for file in context.folder.parent.rglob("*"):
        if file.is_file() and file.stat().st_mtime < oldest:
            file.unlink()
            deleted += 1
    return {"deleted": deleted}
