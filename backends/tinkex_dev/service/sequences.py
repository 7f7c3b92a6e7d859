"""Sampled sequences that training requests refer to by their ids."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from backends.tinkex.types.provenance import PromptProvenanceSpan, ProvenanceSpan
from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.service.run import Batch, BatchExample

LIFE_S: Final = 24 * 3600.0
"""The time for which a sequence can be trained on after it was sampled, and again after each use."""
_MAX_SEQUENCES: Final = 200_000


@dataclass(slots=True)
class _Sequence:
    session_id: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    expires: float


class Sequences:
    """The sequences sampled with ``record_stability_info``.

    Each belongs to the session that sampled it and ends with it. It also ends one day after it was sampled; each
    training request that uses it starts the day again.
    """

    def __init__(self, clock: ServerClock) -> None:
        self._clock = clock
        self._by_id: dict[str, _Sequence] = {}

    def record(self, session_id: str, sequence_id: str, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> None:
        """Record a sequence."""
        self._by_id[sequence_id] = _Sequence(session_id, prompt, tokens, self._clock.seconds() + LIFE_S)
        while len(self._by_id) > _MAX_SEQUENCES:
            del self._by_id[next(iter(self._by_id))]

    def end_session(self, session_id: str) -> None:
        """Forget the sequences of a session."""
        for sequence_id in [key for key, one in self._by_id.items() if one.session_id == session_id]:
            del self._by_id[sequence_id]

    def use(self, session_id: str, batch: Batch) -> None:
        """Restart the day of every sequence that a batch refers to.

        Raises:
            InvalidField: with ``stable_reinforce``, a sequence is unknown, of another session or expired, or has
                other tokens at the positions that a span claims. The targets of a prompt are not compared.
        """
        used: set[str] = set()
        for index, example in enumerate(batch.examples):
            if example.provenance is None:
                continue
            if batch.loss_fn == "stable_reinforce":
                self._check(session_id, example, ("forward_backward_input", "data", index))
            spans = (*example.provenance.model_input, *example.provenance.rows)
            used |= {span.sequence_id for span in spans}
        for sequence_id in used:
            recorded = self._by_id.get(sequence_id)
            if recorded is not None and recorded.session_id == session_id and not self._is_over(recorded):
                recorded.expires = self._clock.seconds() + LIFE_S

    def _is_over(self, recorded: _Sequence) -> bool:
        return recorded.expires <= self._clock.seconds()

    def _check(self, session_id: str, example: BatchExample, path: tuple[str | int, ...]) -> None:
        assert example.provenance is not None
        for name, spans, tokens in (
            ("model_input_spans", example.provenance.model_input, example.tokens),
            ("loss_fn_input_spans", example.provenance.rows, example.loss_inputs["target_tokens"]),
        ):
            start = 0
            for number, span in enumerate(spans):
                claimed = tokens[start : start + span.length]
                start += span.length
                # targets of the prompt are not trained on, and the cookbook fills them with zeros
                untrained = tokens is not example.tokens and isinstance(span, PromptProvenanceSpan)
                found = None if untrained else tuple(np.asarray(claimed).tolist())
                problem = self._problem(session_id, span, found)
                if problem is not None:
                    raise InvalidField.at((*path, name, number, "sequence_id"), problem)

    def _problem(self, session_id: str, span: ProvenanceSpan, claimed: tuple[int, ...] | None) -> str | None:
        recorded = self._by_id.get(span.sequence_id)
        if recorded is None or recorded.session_id != session_id:
            return (
                f"{span.sequence_id!r} is no sequence that this session sampled with record_stability_info; "
                "a sequence ends with its session"
            )
        if self._is_over(recorded):
            return f"{span.sequence_id!r} has expired: one day after it was sampled or last trained on"
        of_prompt = isinstance(span, PromptProvenanceSpan)
        tokens = recorded.prompt if of_prompt else recorded.tokens
        part = "the prompt" if of_prompt else "the sampled tokens"
        if span.end > len(tokens):
            return f"position {span.end} is beyond {part} of {span.sequence_id!r}, which has {len(tokens)}"
        if claimed is not None and tokens[span.offset : span.end] != claimed:
            return f"positions {span.offset} to {span.end} of {part} of {span.sequence_id!r} are other tokens"
        return None
