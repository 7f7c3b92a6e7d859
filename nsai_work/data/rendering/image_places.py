"""Datums of rendered examples, and the places of images in them: each takes a run of tokens, of which none is
trained."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace

from crucible.errors import Unsupported
from crucible.rendering.tokenizer import RenderedExample, Tokenizer
from crucible.training import Datum, DatumImage
from nsai_work.data.images import ExampleImage
from nsai_work.data.problems import RowProblem


def to_datum(rendered: RenderedExample, max_tokens: int) -> Datum:
    """Convert a rendered example to a datum, truncated to its first ``max_tokens`` tokens."""
    tokens = array("i", rendered.tokens[:max_tokens])
    weights = array("f", rendered.weights[: len(tokens)])
    return Datum(tokens=tokens[:-1], loss_inputs={"target_tokens": tokens[1:], "weights": weights[1:]})


def spread_images(
    rendered: Sequence[RenderedExample], images: Sequence[ExampleImage], tokenizer: Tokenizer
) -> list[RenderedExample]:
    """Return rendered examples of a conversation with a marker for each token of its images, in the place of one
    for each image, and without a loss on them.

    Raises:
        Unsupported: the model's template has no place for images, or nothing says how many tokens they take.
        RowProblem: it leaves some out.
    """
    marker = tokenizer.features.image_token
    if marker is None:
        raise Unsupported(f"{images[0].place}: the template of {tokenizer.tokenizer_id} has no place for an image")
    lengths = [tokenizer.image_length(image.width, image.height) for image in images]
    spread = [_spread(one, marker, lengths) for one in rendered]
    shown = max(one.tokens.count(marker) for one in rendered)
    if shown != len(images):
        raise RowProblem(
            f"has {len(images)} images, of which the template of {tokenizer.tokenizer_id} shows {shown}",
            "change the row, or train another model",
            images[0].place,
        )
    return spread


def _spread(one: RenderedExample, marker: int, lengths: Sequence[int]) -> RenderedExample:
    tokens: list[int] = []
    weights: list[float] = []
    left = iter(lengths)
    for token, weight in zip(one.tokens, one.weights, strict=True):
        count = next(left, 1) if token == marker else 1
        tokens += [token] * count
        weights += [0.0 if token == marker else weight] * count
    return RenderedExample(tuple(tokens), tuple(weights))


def datum_with_images(
    rendered: RenderedExample, max_tokens: int, images: Sequence[ExampleImage], tokenizer: Tokenizer
) -> Datum:
    """Convert an example whose images are spread to a datum, with their files; blocking. It is cut before an image
    that does not fit whole, or that nothing follows: an image is no target. Raises RowProblem, DataChanged."""
    places = [*_places(rendered, images, tokenizer)]
    end = min(len(rendered.tokens), max_tokens)
    end = next((place for place, length, _ in places if place < end <= place + length), end)
    kept = tuple(
        DatumImage(place, length, image.format, image.read())
        for place, length, image in places
        if place + length < end
    )
    return replace(to_datum(rendered, end), images=kept)


def _places(
    rendered: RenderedExample, images: Sequence[ExampleImage], tokenizer: Tokenizer
) -> Iterator[tuple[int, int, ExampleImage]]:
    """The place and the number of tokens of each image of an example, which may be the first turns of all."""
    marker, begin = tokenizer.features.image_token, 0
    for image in images:
        if marker not in rendered.tokens[begin:]:
            return
        place = rendered.tokens.index(marker, begin)
        length = tokenizer.image_length(image.width, image.height)
        yield place, length, image
        begin = place + length
