"""Training examples from a chat template: which tokens of a rendered conversation belong to which turn."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crucible.errors import Unsupported
from crucible.rendering.control_text import ControlText, encoded_apart
from crucible.rendering.tokenizer import RenderedExample, TurnWeight

_NOTHING: Final = TurnWeight()


class HistoryRewritten(Unsupported):
    """The template renders a turn differently once later turns follow."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Characters of a rendered conversation with one loss weight."""

    begin: int
    end: int
    weight: float


class Renderer:
    """Renders one conversation for training. ``template`` is a function of messages, which also has the keyword
    ``generate``: whether the header of an assistant's turn follows."""

    def __init__(self, name: str, inner: Any, template: Any, control: ControlText) -> None:
        self._name = name
        self._inner = inner
        self._template = template
        self._control = control

    def examples(
        self, messages: Sequence[Mapping[str, Any]], weights: Sequence[TurnWeight]
    ) -> tuple[RenderedExample, ...]:
        """Render a conversation: as one example, or as one for each trained turn of the assistant where the
        template renders earlier turns differently as the conversation goes on.

        Raises:
            Unsupported: the template drops something, or does not show where a turn begins.
        """
        try:
            return (self.example(messages, weights),)
        except HistoryRewritten:
            ends = [
                index + 1
                for index, (message, weight) in enumerate(zip(messages, weights, strict=True))
                if message["role"] == "assistant" and weight != _NOTHING
            ]
            if len(messages) in ends and len(ends) == 1:
                raise
            return tuple(self._split(messages, weights, ends))

    def _split(
        self, messages: Sequence[Mapping[str, Any]], weights: Sequence[TurnWeight], ends: Sequence[int]
    ) -> Iterator[RenderedExample]:
        begin = 0
        for end in ends:
            yield self.example(messages[:end], [*[_NOTHING] * begin, *weights[begin:end]])
            begin = end
        if any(weight != _NOTHING for weight in weights[begin:]):
            yield self.example(messages, [*[_NOTHING] * begin, *weights[begin:]])

    def example(self, messages: Sequence[Mapping[str, Any]], weights: Sequence[TurnWeight]) -> RenderedExample:
        """Render a conversation as one example. Raises HistoryRewritten if that is impossible."""
        whole: str = self._template(messages, generate=False)
        segments: list[Segment] = []
        for index, weight in enumerate(weights):
            if weight != _NOTHING:
                segments += self._segments(messages, index, weight, whole)
            self._require_rendered(messages[index], whole, index, trained=weight != _NOTHING)
        if all(weight.header and weight == weights[0] for weight in weights):
            # every token, those outside of turns too
            segments = [Segment(0, len(whole), weights[0].header)]
        return self._encoded(whole, segments)

    def _segments(
        self, messages: Sequence[Mapping[str, Any]], index: int, weight: TurnWeight, whole: str
    ) -> Iterator[Segment]:
        message = messages[index]
        is_assistant = message["role"] == "assistant"
        # a rendering takes most of the time, so none is made that is known or not needed
        is_last = index + 1 == len(messages)
        end = len(whole) if is_last else self._prefix(messages[: index + 1], whole, index)
        needs_begin = index > 0 and (weight.header or not is_assistant)
        begin = self._prefix(messages[:index], whole, index) if needs_begin else 0
        if is_assistant:
            output = self._prefix(messages[:index], whole, index, generate=True)
        else:
            output = self._place(message, whole, begin, end, index)[0]
        if weight.header:
            yield Segment(begin, output, weight.header)
        yield Segment(output, end, weight.output)
        if weight.spans:
            place, cut = self._place(message, whole, output, end, index)
            marked_content = str(message["content"])
            for first, last, of_span in weight.spans:
                yield Segment(place + max(self._moved(marked_content, first) - cut, 0),
                              place + max(self._moved(marked_content, last) - cut, 0), of_span)  # fmt: skip

    def _moved(self, content: str, position: int) -> int:
        """The place in a marked text of a place in the original one."""
        original = 0
        for begin, piece, _ in self._control.pieces(content):
            if position <= original + len(piece):
                return begin + position - original
            original += len(piece)
        return len(content)

    def _prefix(
        self, messages: Sequence[Mapping[str, Any]], whole: str, index: int, *, generate: bool = False
    ) -> int:
        text: str = self._template(messages, generate=generate)
        if not whole.startswith(text):
            raise HistoryRewritten(
                f"the chat template of {self._name} renders turn {index} differently once later turns follow; "
                "train with a single assistant turn per conversation"
            )
        return len(text)

    def _place(self, message: Mapping[str, Any], whole: str, begin: int, end: int, index: int) -> tuple[int, int]:
        """Find the position of a turn's content, and how many characters the template cut off before it."""
        content = message["content"]
        text = content.strip() if isinstance(content, str) else ""
        found = whole.rfind(text, begin, end) if text else -1
        if found < 0:
            raise Unsupported(
                f"the chat template of {self._name} does not render the content of turn {index} as it is, "
                "so that its tokens cannot be told from those around it"
            )
        return found, len(content) - len(content.lstrip())

    def _require_rendered(self, message: Mapping[str, Any], whole: str, index: int, *, trained: bool) -> None:
        wanted = [("name", message.get("name"))]
        if trained:
            wanted.append(("thinking", str(message.get("reasoning_content", "")).strip()))
            wanted += [("tool_calls", call["function"]["name"]) for call in message.get("tool_calls", ())]
        for field, text in wanted:
            if text and text not in whole:
                raise Unsupported(
                    f"messages[{index}].{field}: the chat template of {self._name} does not render it",
                    details={"field": f"messages[{index}].{field}"},
                )

    def _encoded(self, text: str, segments: Sequence[Segment]) -> RenderedExample:
        steps = _steps(segments)
        places = [place for place, _ in steps]
        tokens: list[int] = []
        weights: list[float] = []
        for begin, piece, is_control in self._control.pieces(text):
            if is_control:
                ids = encoded_apart(piece, self._encode)
                ends = [1] * len(ids)
            else:
                ids, ends = self._with_ends(piece, [place - begin for place in places])
            tokens += ids
            # a token that lies on a border has the weight of what it ends in
            weights += [_weight_at(steps, places, begin + max(end - 1, 0)) for end in ends]
        return RenderedExample(tuple(tokens), tuple(weights))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._inner.encode(text, add_special_tokens=False)
        return ids

    def _with_ends(self, text: str, borders: Sequence[int]) -> tuple[list[int], list[int]]:
        """The tokens of a text, and the character behind each; without a fast tokenizer, the next border."""
        if self._inner.is_fast:
            encoded = self._inner(text, add_special_tokens=False, return_offsets_mapping=True)
            return list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
        ids, ends = self._encode(text), list[int]()
        for border in [*sorted({border for border in borders if 0 < border < len(text)}), len(text)]:
            before = self._encode(text[:border])
            if ids[: len(before)] != before:
                raise Unsupported(f"the tokenizer {self._name} has a token across the border of two turns")
            ends += [border] * (len(before) - len(ends))
        return ids, ends


def _steps(segments: Sequence[Segment]) -> list[tuple[int, float]]:
    """The weights as a step function: each from its place on. Later segments lie over earlier ones."""
    places = sorted({0, *(segment.begin for segment in segments), *(segment.end for segment in segments)})
    weights = dict.fromkeys(places, 0.0)
    for segment in segments:
        for place in places:
            if segment.begin <= place < segment.end:
                weights[place] = segment.weight
    return list(weights.items())


def _weight_at(steps: Sequence[tuple[int, float]], places: Sequence[int], place: int) -> float:
    return steps[bisect_right(places, place) - 1][1]
