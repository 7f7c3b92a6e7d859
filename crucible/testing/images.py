"""The contract tests of images in training examples."""

import zlib
from collections.abc import Sequence
from typing import Final

import pytest

from crucible.backend import TrainingBackend
from crucible.errors import Unsupported
from crucible.rendering.tokenizer import Tokenizer
from crucible.testing.loop import run_opened
from crucible.testing.training_base import TrainingContract
from crucible.training import Datum, DatumImage, OptimizerSpec, StepRequest

_SIDE: Final = 40


class ImageContract(TrainingContract):
    """The suite. ``TrainingBackendContract`` includes it. Without ``supports_image_training`` a backend must
    refuse."""

    def test_an_image_is_part_of_an_example(self, backend: TrainingBackend) -> None:
        """It decides the digest and the loss of a step, and a forward pass sees it; without
        ``supports_image_training`` both are refused before they are sent."""

        async def body(opened: TrainingBackend) -> None:
            tokenizer, capabilities = await opened.tokenizer(self.spec.base_model), await opened.capabilities()
            dark, same, light = (_example(tokenizer, _png(_SIDE, shade)) for shade in (40, 40, 200))
            run = await opened.start(self.spec)
            if not capabilities.supports_image_training:
                with pytest.raises(Unsupported, match="images"):
                    run.prepare_step(_step(dark))
                if capabilities.supports_forward:
                    with pytest.raises(Unsupported, match="images"):
                        run.prepare_forward([dark], step=0)
                await run.close(unload=True)
                return
            passed = await (await run.send(run.prepare_forward([dark, same, light], step=0))).result()
            assert [len(each) for each in passed.logprobs] == [len(dark.tokens)] * 3
            assert list(passed.logprobs[0]) == list(passed.logprobs[1]) != list(passed.logprobs[2])
            losses, digests = [], []
            for example in (dark, same, light):
                prepared = (run := await opened.start(self.spec)).prepare_step(_step(example))
                digests.append(prepared.intent.digest)
                losses.append((await (await run.send(prepared)).result()).loss)
                await run.close(unload=True)
            assert digests[0] == digests[1] != digests[2]
            assert losses[0] == losses[1] != losses[2]

        run_opened(backend, body)


def _step(example: Datum) -> StepRequest:
    return StepRequest(1, [example], OptimizerSpec(learning_rate=1e-3))


def _example(tokenizer: Tokenizer, data: bytes) -> Datum:
    """A question with an image before it, and its answer."""
    turns = [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A square."}]
    rendered = tokenizer.render_example(turns)
    marker = tokenizer.features.image_token
    length = 1 if marker is None else tokenizer.image_length(_SIDE, _SIDE)
    tokens = [rendered.tokens[0], *[marker or 0] * length, *rendered.tokens[1:]]
    weights = [0.0, *[0.0] * length, *rendered.weights[1:]]
    inputs: dict[str, Sequence[int] | Sequence[float]] = {"target_tokens": tokens[1:], "weights": weights[1:]}
    return Datum(tokens[:-1], inputs, images=[DatumImage(1, length, "png", data)])


def _png(side: int, shade: int) -> bytes:
    """A grey square as a PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    head = side.to_bytes(4) * 2 + bytes([8, 0, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes([shade]) * side) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
