"""The answers of servers, good and bad: each as a whole, as a stream, and what must come of both.

A scenario with ``choices`` (fields of the expected choices, others are not compared) succeeds; one with ``error``
raises this class. LiteLLM reads answers before our backend does: ``litellm`` overrides what it changes.
"""

import json
from collections.abc import Iterator

from crucible import MalformedAnswer
from tests.contract.answer_forms import (
    USAGE,
    USAGE_CHUNK,
    Scenario,
    body,
    call,
    calls,
    chunk,
    said,
    stream,
    text,
    whole,
)
from tests.contract.answer_server import Answer
from tests.contract.broken_answers import BROKEN


def _finish_reasons() -> Iterator[Scenario]:
    values: list[tuple[str | None, str | None]] = [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("refusal", "refusal"),
        ("error", "error"),
        ("tool_call", "tool_calls"),
        ("eos", "stop"),
        ("SAFETY", "content_filter"),
        ("abort", "error"),
        ("something new", "unknown"),
        ("", None),
        (None, None),
    ]
    for value, reason in values:
        yield Scenario(
            f"finish reason {value!r}",
            whole({"content": "Hi"}, finish_reason=value),
            said({"content": "Hi"}, finish=value),
            [text("Hi", finish_reason=reason, raw_finish_reason=value)],
        )


def _tool_calls() -> Iterator[Scenario]:
    ulm, bonn = '{"town": "Ulm"}', '{"town": "Bonn"}'
    two = [("a", "weather", ulm), ("b", "time", bonn)]
    both = [call(id="a"), call("time", bonn, id="b")]
    yield Scenario(
        "a tool call, split",
        whole({"content": None, "tool_calls": [call(id="a")]}, finish_reason="tool_calls"),
        said(
            {"role": "assistant", "content": None},
            {"tool_calls": [{"index": 0, **call(id="a", arguments="")}]},
            *(
                {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
                for piece in ('{"to', 'wn": ', '"Ulm"}')
            ),
            finish="tool_calls",
        ),
        [{**calls(two[0]), "finish_reason": "tool_calls"}],
    )
    yield Scenario(
        "two tool calls, interleaved",
        whole({"content": None, "tool_calls": both}, finish_reason="tool_calls"),
        said(
            {"tool_calls": [{"index": 0, **call(id="a", arguments="")}, {"index": 1, **call("time", "", id="b")}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": ulm[:5]}}]},
            {"tool_calls": [{"index": 1, "function": {"arguments": bonn[:7]}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": ulm[5:]}}]},
            {"tool_calls": [{"index": 1, "function": {"arguments": bonn[7:]}}]},
            finish="tool_calls",
        ),
        [calls(*two)],
    )
    yield Scenario(
        "two tool calls, in one delta",
        whole({"content": None, "tool_calls": both}),
        said({"tool_calls": [{"index": number, **found} for number, found in enumerate(both)]}),
        [calls(*two)],
    )
    for index in (0, None):
        yield Scenario(
            f"two tool calls, both with index {index}",
            whole({"content": None, "tool_calls": [{"index": index, **found} for found in both]}),
            said(
                {"tool_calls": [{"index": index, **call(id="a", arguments=ulm[:4])}]},
                {"tool_calls": [{"index": index, "function": {"arguments": ulm[4:]}}]},
                {"tool_calls": [{"index": index, **call("time", "", id="b")}]},
                {"tool_calls": [{"index": index, "function": {"arguments": bonn}}]},
            ),
            [calls(*two)],
        )
        yield Scenario(
            f"two tool calls without ids, both with index {index}",
            whole({"content": None, "tool_calls": [call(), call("time", bonn)]}),
            said(
                {"tool_calls": [{"index": index, **call()}]},
                {"tool_calls": [{"index": index, **call("time", bonn)}]},
            ),
            [calls(("call-0", "weather", ulm), ("call-1", "time", bonn))],
        )
    yield Scenario(
        "the same tool twice, without ids, both with index 0",
        whole({"content": None, "tool_calls": [call(), call("weather", bonn)]}),
        said({"tool_calls": [{"index": 0, **call()}]}, {"tool_calls": [{"index": 0, **call("weather", bonn)}]}),
        [calls(("call-0", "weather", ulm), ("call-1", "weather", bonn))],
    )
    yield Scenario(
        "the same tool twice, without arguments, both with index 0",
        whole({"content": None, "tool_calls": [call(arguments="", id="a"), call(arguments="", id="b")]}),
        said(*({"tool_calls": [{"index": 0, **call(arguments="", id=name)}]} for name in ("a", "b"))),
        [calls(("a", "weather", ""), ("b", "weather", ""))],
    )
    yield Scenario(
        "tool calls with equal ids",
        whole({"content": None, "tool_calls": [call(id="a"), call("time", bonn, id="a")]}),
        said(
            {"tool_calls": [{"index": 0, **call(id="a")}]},
            {"tool_calls": [{"index": 1, **call("time", bonn, id="a")}]},
        ),
        [calls(("a", "weather", ulm), ("call-1", "time", bonn))],
    )
    yield Scenario(
        "a tool call with id and name in every delta",
        whole({"content": None, "tool_calls": [call(id="a")]}),
        said(
            {"tool_calls": [{"index": 0, **call(id="a", arguments=ulm[:4])}]},
            {"tool_calls": [{"index": 0, **call(id="a", arguments=ulm[4:9])}]},
            {"tool_calls": [{"index": 0, **call(id="a", arguments=ulm[9:])}]},
        ),
        [calls(two[0])],
    )
    yield Scenario(
        "a tool call whose id comes last",
        whole({"content": None, "tool_calls": [call(id="a")]}),
        said({"tool_calls": [{"index": 0, **call()}]}, {"tool_calls": [{"index": 0, "id": "a"}]}),
        [calls(two[0])],
    )
    yield Scenario(
        "empty tool calls beside one",
        whole({"content": None, "tool_calls": [{}, call(id="a"), {"function": {}}]}),
        said(
            {"tool_calls": [{}]}, {"tool_calls": [{"index": 0, **call(id="a")}]}, {"tool_calls": [{"function": {}}]}
        ),
        [calls(two[0])],
    )
    yield Scenario(
        "a tool call without arguments",
        whole({"content": None, "tool_calls": [call(arguments=None, id="a")]}),
        said({"tool_calls": [{"index": 0, **call(arguments=None, id="a")}]}),
        [calls(("a", "weather", ""))],
    )
    yield Scenario(
        "a tool call with an object as arguments",
        whole({"content": None, "tool_calls": [call(arguments={"town": "Ulm"}, id="a")]}),
        said({"tool_calls": [{"index": 0, **call(arguments={"town": "Ulm"}, id="a")}]}),
        [calls(two[0])],
    )
    yield Scenario(
        "a tool call in the protocol's older form",
        whole({"content": None, "function_call": call()["function"]}, finish_reason="function_call"),
        said({"function_call": call()["function"]}, finish="function_call"),
        [{**calls(("call-0", "weather", ulm)), "finish_reason": "tool_calls"}],
    )
    yield Scenario(
        "text and a tool call",
        whole({"content": "Let me see.", "tool_calls": [call(id="a")]}),
        said({"content": "Let me "}, {"content": "see."}, {"tool_calls": [{"index": 0, **call(id="a")}]}),
        [{"message": {**calls(two[0])["message"], "content": "Let me see."}}],
    )
    yield Scenario(
        "a tool call without a name",
        whole({"content": None, "tool_calls": [call(name=None, id="a")]}),
        said({"tool_calls": [{"index": 0, **call(name=None, id="a")}]}),
        error=MalformedAnswer,
        says="tool call 0 has no name",
    )


def _contents() -> Iterator[Scenario]:
    yield Scenario("content null", whole({"content": None}), said({"content": None}), [text("")])
    yield Scenario("content empty", whole({"content": ""}), said({"content": ""}), [text("")])
    yield Scenario("no content", whole({}), said(), [text("")])
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}, {"type": "text", "text": "m."}]},
        {"type": "text", "text": "Hello "},
        {"type": "text", "text": "there"},
    ]
    yield Scenario(
        "content as a list with thinking",
        whole({"content": parts}),
        said(*({"content": [part]} for part in parts)),
        [text("Hello there", thinking={"content": "Hmm."})],
    )
    yield Scenario(
        "content as a list of strings",
        whole({"content": ["a", "b"]}),
        said({"content": ["a"]}, {"content": ["b"]}),
        [text("ab")],
    )
    for name in ("reasoning_content", "reasoning"):
        yield Scenario(
            f"thinking in {name}",
            whole({"content": "Hi", name: "Hm. A greeting."}),
            said(
                {name: "Hm. ", "content": None}, {name: "A greeting.", "content": ""}, {"content": "Hi", name: ""}
            ),
            [text("Hi", thinking={"content": "Hm. A greeting."})],
        )
    yield Scenario(
        "thinking empty",
        whole({"content": "Hi", "reasoning": ""}),
        said({"content": "Hi", "reasoning": ""}),
        [text("Hi", thinking=None)],
    )
    refusal = {"message": {"content": None, "refusal": "I will not do that."}, "finish_reason": "refusal"}
    yield Scenario(
        "a refusal",
        whole({"content": None, "refusal": "I will not do that."}),
        said({"refusal": "I will "}, {"refusal": "not do that."}),
        [refusal],
    )
    yield Scenario(
        "a refusal after some text",
        whole({"content": "Well", "refusal": "I will not do that."}),
        said({"content": "Well"}, {"refusal": "I will not do that."}),
        [{**refusal, "message": {"content": "Well", "refusal": "I will not do that."}}],
    )
    yield Scenario(
        "a refusal as a part",
        whole({"content": [{"type": "refusal", "refusal": "I will not do that."}]}),
        said({"content": [{"type": "refusal", "refusal": "I will not do that."}]}),
        [refusal],
    )
    yield Scenario(
        "a part of an unknown type",
        whole({"content": [{"type": "hologram", "data": "x"}]}),
        said({"content": [{"type": "hologram", "data": "x"}]}),
        error=MalformedAnswer,
        says="hologram",
    )
    yield Scenario(
        "characters of several bytes, split between writes",
        Answer(tuple(bytes([byte]) for byte in _utf8(whole({"content": "Grüße 🦊"})))),
        Answer(
            tuple(bytes([byte]) for byte in _utf8(said({"content": "Grü"}, {"content": "ße 🦊"}))),
            content_type="text/event-stream; charset=utf-8",
        ),
        [text("Grüße 🦊")],
    )
    yield Scenario(
        "line separators in the text",
        Answer((_utf8(whole({"content": "a\u2028b\u2029c\x0bd\x85e"})),)),
        Answer((_utf8(said({"content": "a\u2028b\u2029c\x0bd\x85e"})),), content_type="text/event-stream"),
        [text("a\u2028b\u2029c\x0bd\x85e")],
    )
    yield Scenario(
        "a byte order mark",
        Answer((b"\xef\xbb", b"\xbf", *whole({"content": "Hi"}).pieces)),
        Answer((b"\xef\xbb\xbf", *said({"content": "Hi"}).pieces), content_type="text/event-stream"),
        [text("Hi")],
    )


def _utf8(answer: Answer) -> bytes:
    """The bytes of an answer with its characters as UTF-8 rather than as escapes of JSON."""
    lines = b"".join(answer.pieces).split(b"\n")
    found = []
    for line in lines:
        head, data = (b"data: ", line[6:]) if line.startswith(b"data: ") else (b"", line)
        try:
            found.append(head + json.dumps(json.loads(data), ensure_ascii=False).encode())
        except ValueError:
            found.append(line)
    return b"\n".join(found)


def _usages() -> Iterator[Scenario]:
    plain = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "source": "provider"}
    hi, end = chunk({"content": "Hi"}), chunk(finish_reason="stop")
    whole_hi = whole({"content": "Hi"})
    streams = {
        "in a chunk of its own": (hi, end, USAGE_CHUNK),
        "with the end": (hi, {**end, "usage": USAGE}),
        "with the first chunk": ({**hi, "usage": USAGE}, end),
        "in every chunk, growing": ({**hi, "usage": {**USAGE, "completion_tokens": 1}}, {**end, "usage": USAGE}),
        "in every chunk, null but once": (
            {**hi, "usage": None},
            {**end, "usage": USAGE},
            {**USAGE_CHUNK, "usage": None},
        ),
        "in a choice": (hi, chunk(finish_reason="stop", usage=USAGE)),
        "after an empty delta": (hi, end, {**chunk({"content": ""}), "usage": USAGE}),
        "in x_groq": (hi, {**end, "x_groq": {"usage": USAGE}}),
    }
    for name, chunks in streams.items():
        yield Scenario(f"usage {name}", whole_hi, stream(*chunks), [text("Hi")], plain)
    cached = {
        "prompt_tokens_details": {"prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": None}},
        "DeepSeek's field": {"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2},
        "cached_tokens": {"cached_tokens": 8},
    }
    for name, more in cached.items():
        usage = {**USAGE, **more}
        answered = {**json.loads(whole_hi.pieces[0]), "usage": usage}
        yield Scenario(
            f"cached tokens in {name}",
            body(answered),
            stream(hi, end, {**USAGE_CHUNK, "usage": usage}),
            [text("Hi")],
            {**plain, "cached_tokens": 8},
        )
    for name, usage in {
        "missing": None,
        "of wrong types": {"prompt_tokens": "many", "completion_tokens": -1},
    }.items():
        answered = {**json.loads(whole_hi.pieces[0]), "usage": usage}
        yield Scenario(
            f"usage {name}",
            body(answered),
            stream(hi, end, {**USAGE_CHUNK, "usage": usage}),
            [text("Hi")],
            {"source": "estimated"},
        )


def _logprobs() -> Iterator[Scenario]:
    def logprob(value: str, top: str = "") -> str:
        return f'{{"token": "Hi", "logprob": {value}, "bytes": null, "top_logprobs": [{top}]}}'

    for name, value, expected in (
        ("finite", "-0.5", -0.5),
        ("-inf", "-Infinity", -9999.0),
        ("NaN", "NaN", None),
        ("null", "null", None),
    ):
        content = f'{{"content": [{logprob(value, logprob(value))}], "refusal": null}}'
        marked = whole({"content": "Hi"}, logprobs="MARK"), said({"content": "Hi"})
        first = json.dumps(chunk({"content": "Hi"}, logprobs="MARK"))
        pieces = (f"data: {first}\n\n".encode(), *marked[1].pieces[1:])
        yield Scenario(
            f"log probability {name}",
            _replaced(marked[0], content),
            _replaced(Answer(pieces, content_type="text/event-stream"), content),
            [text("Hi", logprobs=[{"token": "Hi", "logprob": expected}])],
        )
    yield Scenario(
        "log probabilities empty or null",
        whole({"content": "Hi"}, logprobs={"content": []}),
        said({"content": "Hi"}),
        [text("Hi", logprobs=None)],
    )


def _replaced(answer: Answer, content: str) -> Answer:
    pieces = tuple(piece.replace(b'"MARK"', content.encode()) for piece in answer.pieces)
    return Answer(pieces, content_type=answer.content_type)


SCENARIOS = [*_finish_reasons(), *_tool_calls(), *_contents(), *_usages(), *_logprobs(), *BROKEN]
