"""Checks training data as submit does: 100,000 two-turn rows of about 100 tokens, JSON lines.

    python benchmarks/check_data.py [--rows N]

Prints seconds, rows a second and the peak of memory, with the dev server's tokenizer and, where transformers is
installed, with a Hugging Face fast tokenizer of bytes and a chat template; and the same of the whole command
``nsai-work submit``, which also starts, asks the service, stores the file and the job.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from own_processes import run_main

from backends.tinkex_dev.server import DEV_KEY, DevProcess
from crucible.rendering.tokenizer import ByteTokenizer, Tokenizer
from crucible.runtime.monotonic import monotonic
from nsai_work.data.check import check_file
from nsai_work.data.dataset import pin_data
from nsai_work.data.rendering.rules import Rendering
from nsai_work.payloads import TrainingData

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_rows(path: Path, rows: int) -> None:
    """Write rows of 100 bytes of text and a few."""
    with path.open("w") as file:
        for number in range(rows):
            question, answer = f"What is the tide at pier {number:06d}? ", f"High at {number % 24}:30, low later. "
            turns = [{"role": "user", "content": question + "x" * 16}, {"role": "assistant", "content": answer * 2}]
            file.write(json.dumps({"messages": turns}) + "\n")


def fast_tokenizer() -> Tokenizer:
    """A Hugging Face fast tokenizer. Raises ImportError."""
    from tokenizers import Tokenizer as Core
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from crucible.rendering.chat_template import TemplateTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Core(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    inner = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    inner.chat_template = TEMPLATE
    return TemplateTokenizer("fast", inner)


def measure(path: Path, kind: str) -> None:
    """Check the file in this process, and print what it took."""
    tokenizer = ByteTokenizer() if kind == "bytes" else fast_tokenizer()
    start, busy = monotonic(), time.process_time()
    data = pin_data(TrainingData(path=str(path)))
    found = check_file(data, 0, Rendering(tokenizer, 4096))
    seconds, cpu = monotonic() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{kind}: {found.rows:,} rows, {found.tokens:,} tokens in {seconds:.1f} s, {cpu:.1f} s of CPU "
        f"({found.rows / seconds:,.0f} rows/s), peak {peak:.0f} MiB"
    )


def measure_submit(path: Path, rows: int) -> None:
    """Submit a job with the file to a home of its own, and print what the whole command took."""
    job = path.with_name("job.json")
    payload = {"base_model": "tiny-lm", "data": {"path": path.name}, "max_steps": 5}
    job.write_text(json.dumps({"kind": "training_step", "backend": "tinkex", "payload": payload}))
    with DevProcess(path.parent / "server") as server:
        service = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}
        environment = {**os.environ, **service, "NSAI_WORK_HOME": str(path.parent / "home")}
        command = [str(Path(sys.executable).with_name("nsai-work")), "submit", str(job)]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), monotonic()
        subprocess.run(command, env=environment, capture_output=True, check=True)
        seconds, after = monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"nsai-work submit: {rows:,} rows in {seconds:.1f} s, "
        f"{cpu:.1f} s of CPU, peak {after.ru_maxrss // 1024} MiB"
    )


def main() -> None:
    """Measure each tokenizer in a process of its own, for its own peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "TOKENIZER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(Path(arguments.measure[0]), arguments.measure[1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, arguments.rows)
        # first, since the peak of memory is that of all children before
        measure_submit(path, arguments.rows)
        for kind in ("bytes", "transformers"):
            command = [sys.executable, __file__, "--measure", str(path), kind]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(done.stdout.strip() or f"{kind}: not measured ({done.stderr.strip().splitlines()[-1]})")
    return None


if __name__ == "__main__":
    run_main(main)
