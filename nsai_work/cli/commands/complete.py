"""``nsai-work complete``: sends a prompt to a backend directly, without a job."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from crucible.errors import InvalidRequest
from crucible.rendering.plain_text import plain_text
from nsai_work.cli.model_choice import BackendName, CheckpointChoice, chosen_model
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.presentation.json_forms import as_json

if TYPE_CHECKING:
    from crucible.completion import Completion
    from crucible.prompt import Prompt
    from crucible.stream import StreamEvent

STDIN = "-"
MAX_IMAGE_BYTES = 64 << 20
INCOMPLETE: Final[dict[str | None, str]] = {
    "length": "the answer was cut at the limit of tokens; a higher --max-tokens allows more",
    "content_filter": "the service filtered the answer",
    "refusal": "the model refused to answer",
    "error": "the service failed while it answered, so the answer may be incomplete",
    "unknown": "the service ended the answer for a reason that is not known, so it may be incomplete",
    None: "the service did not report why the answer ended, so it may be incomplete",
}
"""The note on an answer that is not complete, by its finish reason."""


def complete(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="Text of the prompt; '-' or nothing reads it from stdin.")
    ] = STDIN,
    backend: BackendName = None,
    model: Annotated[
        str | None, typer.Option(help="Base model, path of a checkpoint, or ID[:CHECKPOINT] of a training job.")
    ] = None,
    checkpoint: CheckpointChoice = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum number of tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; 0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling: probability mass to sample from.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for reproducible sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; can be repeated.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Image file to add to the prompt; can be repeated.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the completion with all its fields as JSON.")
    ] = False,
) -> None:
    """Send a prompt to a backend and print the answer.

    The answer is streamed if stdout is a terminal; control characters in it are escaped there.
    """
    from crucible.runtime.blocking_backend import connect

    name, model_path = chosen_model(model, backend, checkpoint)
    options: dict[str, object] = {
        "model": model_path, "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed,
        "stop": stop or [],
    }  # fmt: skip
    request = _build_prompt(_read_prompt(prompt), system=system, images=image or [], options=options)
    with connect(name) as service:
        if json_output:
            write_json(as_json(service.complete(request)))
        elif sys.stdout.isatty() and service.capabilities().supports_streaming:
            _write_stream(service.stream(request))
        else:
            _write_answer(service.complete(request))


def _read_prompt(argument: str) -> str:
    # as $(...) of a shell does: echo and editors end a text with a newline that is no part of the prompt
    text = re.sub(r"\r?\n\Z", "", sys.stdin.read()) if argument == STDIN else argument
    if not text.strip():
        raise InvalidRequest.of("prompt", text, "give the text as an argument or on stdin")
    return text


def _build_prompt(text: str, *, system: str | None, images: Iterable[Path], options: dict[str, object]) -> "Prompt":
    from crucible.prompt import Prompt
    from crucible.values.record_reader import read_record

    parts: list[dict[str, object]] = [{"type": "text", "text": text}, *map(_image_part, images)]
    content = text if len(parts) == 1 else parts
    data = {"messages": [{"role": "user", "content": content}], "system": system, "options": options}
    return read_record(Prompt, data)


def _image_part(path: Path) -> dict[str, object]:
    import base64

    from crucible.rendering.media import IMAGE_TYPES, image_media_type
    from nsai_work.files.user_paths import NotRegular, expanded, open_regular

    try:
        with open_regular(expanded(str(path))) as file:
            content = file.read(MAX_IMAGE_BYTES + 1)
    except NotRegular as error:
        raise InvalidRequest.of("--image", str(path), f"it {error}; name an existing file") from None
    except OSError as error:
        raise InvalidRequest.of("--image", str(path), f"it cannot be read: {error.strerror}") from error
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidRequest.of("--image", str(path), f"the maximum size is {MAX_IMAGE_BYTES >> 20} MiB")
    media_type = image_media_type(content)
    if media_type is None:
        raise InvalidRequest.of("--image", str(path), f"supported types: {', '.join(IMAGE_TYPES)}")
    return {"type": "image", "base64": base64.b64encode(content).decode(), "media_type": media_type}


def _write_stream(events: "Iterable[StreamEvent]") -> None:
    from crucible.stream import DeltaEvent, Folding

    folding = Folding()
    for event in events:
        folding.add(event)
        if isinstance(event, DeltaEvent) and event.index == 0 and (event.text or event.refusal):
            _write(event.text or event.refusal or "")
            sys.stdout.flush()
    _write_end(folding.completion())


def _write_answer(completion: "Completion") -> None:
    refusal = completion.choices[0].message.refusal if completion.choices else None
    _write(completion.text or refusal or "")
    _write_end(completion)


def _write_end(completion: "Completion") -> None:
    _write_tool_calls(completion)
    for choice in completion.choices[:1]:
        reason = choice.finish_reason
        if reason is None or not reason.is_complete:
            raw = f" ({choice.raw_finish_reason})" if choice.raw_finish_reason else ""
            write_line(f"warning: {INCOMPLETE[reason.value if reason else None]}{raw}", err=True)


def _write(text: str) -> None:
    """Write text of a model: as it is to a file or a pipe, escaped to a terminal, on which it could act."""
    sys.stdout.write(plain_text(text) if sys.stdout.isatty() else text)


def _write_tool_calls(completion: "Completion") -> None:
    for choice in completion.choices[:1]:
        for call in choice.message.tool_calls:
            _write(f"\n[tool call] {call.name} {call.arguments}")
    sys.stdout.write("\n")
    sys.stdout.flush()
