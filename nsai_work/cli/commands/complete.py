"""``nsai-work complete``: one prompt to one backend, without the queue."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.errors import InvalidRequest
from nsai_work.cli.output import as_json, write_json

if TYPE_CHECKING:
    from crucible.completion import Completion
    from crucible.prompt import Prompt
    from crucible.stream import StreamEvent

STDIN = "-"
MAX_IMAGE_BYTES = 64 << 20


def complete(
    prompt: Annotated[str, typer.Argument(help="What to say; '-' or nothing reads it from stdin.")] = STDIN,
    backend: Annotated[str, typer.Option(help="A backend's name, as nsai-work backends lists it.")] = "tinkex",
    model: Annotated[str | None, typer.Option(help="A base model, or the path of a checkpoint.")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions that stand before the prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens are generated.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from this share of the probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="The answer ends before this text; may be repeated.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="An image file; may be repeated.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the whole completion as JSON.")] = False,
) -> None:
    """Complete a prompt: streamed to a terminal, whole to a pipe, as data with --json."""
    from crucible.blocking import connect

    options: dict[str, object] = {
        "model": model, "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed,
        "stop": stop or [],
    }  # fmt: skip
    asked = _build_prompt(_read_prompt(prompt), system=system, images=image or [], options=options)
    with connect(backend) as service:
        if json_output:
            write_json(as_json(service.complete(asked)))
        elif sys.stdout.isatty() and service.capabilities().supports_streaming:
            _write_stream(service.stream(asked))
        else:
            _write_answer(service.complete(asked))


def _read_prompt(argument: str) -> str:
    text = sys.stdin.read() if argument == STDIN else argument
    if not text.strip():
        raise InvalidRequest.of("prompt", text, "give a text as argument or on stdin")
    return text


def _build_prompt(text: str, *, system: str | None, images: Iterable[Path], options: dict[str, object]) -> "Prompt":
    from crucible.parsing import read_record
    from crucible.prompt import Prompt

    parts: list[dict[str, object]] = [{"type": "text", "text": text}, *map(_image_part, images)]
    content = text if len(parts) == 1 else parts
    data = {"messages": [{"role": "user", "content": content}], "system": system, "options": options}
    return read_record(Prompt, data)


def _image_part(path: Path) -> dict[str, object]:
    import base64

    from crucible.media import IMAGE_TYPES, image_media_type

    try:
        if not path.is_file():
            raise InvalidRequest.of("--image", str(path), "it must be a file")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise InvalidRequest.of("--image", str(path), f"it must not be larger than {MAX_IMAGE_BYTES >> 20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequest.of("--image", str(path), f"it cannot be read: {error.strerror}") from error
    media_type = image_media_type(content)
    if media_type is None:
        raise InvalidRequest.of("--image", str(path), f"it must be one of {', '.join(IMAGE_TYPES)}")
    return {"type": "image", "base64": base64.b64encode(content).decode(), "media_type": media_type}


def _write_stream(events: "Iterable[StreamEvent]") -> None:
    from crucible.stream import DeltaEvent, Folding

    folding = Folding()
    for event in events:
        folding.add(event)
        if isinstance(event, DeltaEvent) and event.index == 0 and event.text:
            sys.stdout.write(event.text)
            sys.stdout.flush()
    _write_ending(folding.completion())


def _write_answer(completion: "Completion") -> None:
    sys.stdout.write(completion.text)
    _write_ending(completion)


def _write_ending(completion: "Completion") -> None:
    for choice in completion.choices[:1]:
        for call in choice.message.tool_calls:
            sys.stdout.write(f"\n[tool call] {call.name} {call.arguments}")
    sys.stdout.write("\n")
    sys.stdout.flush()
