"""Images of rows: in the row or beside the data file, counted as the model does; bad ones are refused by name."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from crucible.rendering.tokenizer import ByteTokenizer
from crucible.training import Datum
from nsai_work.data.check import check_file
from nsai_work.data.dataset import load_data, new_counts, pin_data
from nsai_work.data.held_out import content_hash
from nsai_work.data.images import MAX_IMAGE_BYTES
from nsai_work.data.rendering.rules import Rendering
from nsai_work.errors import DataChanged, InvalidJob
from nsai_work.payloads import TrainingData
from tests.pictures import data_url, jpeg_header, png, written

PNG = png(60, 30)
LENGTH = 1 + 3 * 2
IMAGE = ByteTokenizer.IMAGE


def row(*images: object, question: str = "What?") -> dict[str, Any]:
    """A row with images before the question."""
    content = [*images, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "Grey."}]}


def data_of(folder: Path, *rows: object, name: str = "a.jsonl", **settings: object) -> TrainingData:
    """Write rows, and return the data that names them."""
    written(folder / name, "".join(json.dumps(each) + "\n" for each in rows).encode())
    return TrainingData.model_validate({"path": str(folder / name), **settings})


def datums_of(data: TrainingData, **settings: Any) -> list[Datum]:
    """Render all rows."""
    rendering = Rendering(ByteTokenizer(), settings.pop("max_tokens", 4096), **settings)
    counts = new_counts(data, 0)
    found = [datum for example in load_data(data).examples for datum in rendering.datums(example, counts)]
    counts.bad.raise_if_any(len(found))
    return found


FORMS = {
    "data URL, as OpenAI has it": {"type": "image_url", "image_url": {"url": data_url(PNG), "detail": "auto"}},
    "data URL": {"type": "image", "url": data_url(PNG)},
    "base64": {"type": "image", "base64": base64.b64encode(PNG).decode(), "media_type": "image/png"},
    "path": {"type": "image", "path": "images/a.png"},
    "path under the key image": {"type": "image", "image": "images/a.png"},
    "path as OpenAI's URL": {"type": "image_url", "image_url": {"url": "images/a.png"}},
}


@pytest.mark.parametrize("packed", [False, True], ids=["read", "pinned"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_an_image_makes_the_same_example(tmp_path: Path, form: str, *, packed: bool) -> None:
    """A marker for each of its tokens, no loss on them, and the file itself."""
    written(tmp_path / "images" / "a.png", PNG)
    data = data_of(tmp_path, row(FORMS[form]))
    [datum] = datums_of(pin_data(data) if packed else data)
    [image] = datum.images
    assert (image.place, image.length, image.format, image.data) == (1, LENGTH, "png", PNG)
    text = [258, *[IMAGE] * LENGTH, *b"What?", 256, 259, *b"Grey.", 256]
    assert [*datum.tokens] == text[:-1]
    assert [*datum.loss_inputs["target_tokens"]] == text[1:]
    assert [*datum.loss_inputs["weights"]] == [0.0] * (len(text) - 7) + [1.0] * 6


def test_no_token_of_an_image_is_trained(tmp_path: Path) -> None:
    """Whatever ``train_on`` says; several images keep their order, also side by side."""
    files = [png(28, 28, 1), jpeg_header(29, 28), png(1, 1, 2)]
    kinds = ["png", "jpeg", "png"]
    images = [{"type": "image", "url": data_url(file, kind)} for file, kind in zip(files, kinds, strict=True)]
    [datum] = datums_of(data_of(tmp_path, row(*images), train_on="all_tokens"))
    assert [(each.place, each.length, each.format) for each in datum.images] == [
        (1, 2, "png"), (3, 3, "jpeg"), (6, 2, "png"),
    ]  # fmt: skip
    assert [each.data for each in datum.images] == files
    targets, weights = datum.loss_inputs["target_tokens"], datum.loss_inputs["weights"]
    assert [weight for target, weight in zip(targets, weights, strict=True) if target == IMAGE] == [0.0] * 7
    assert weights.count(1.0) == len(targets) - 7


@pytest.mark.parametrize(
    ("limit", "kept", "images"), [(99, 27, 2), (19, 19, 2), (18, 11, 1), (12, 11, 1), (11, 11, 1), (10, 10, 1)]
)
def test_an_image_that_does_not_fit_is_cut_whole(tmp_path: Path, limit: int, kept: int, images: int) -> None:
    """With what follows it."""
    image = {"type": "image", "url": data_url(PNG)}
    turns = [
        {"role": "user", "content": [image, {"type": "text", "text": "a"}], "train": True},
        {"role": "user", "content": [image, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "Grey."},
    ]
    [datum] = datums_of(data_of(tmp_path, {"messages": turns}), max_tokens=limit)
    assert (len(datum.tokens), len(datum.images)) == (kept - 1, images)


def test_tokens_are_counted_with_images(tmp_path: Path) -> None:
    """In all counts of a file."""
    data = data_of(tmp_path, row({"type": "image", "url": data_url(PNG)}), row())
    report = check_file(data, 0, Rendering(ByteTokenizer(), 4096)).report(limit=4096)
    assert report["images"] == 1
    assert report["tokens_per_epoch"] == 2 * 14 + LENGTH
    assert report["trained_tokens_per_epoch"] == 12


def changed(**fields: object) -> dict[str, object]:
    """An image part with these fields."""
    return {"type": "image", **fields}


BAD = {
    "an address": (changed(url="https://example.org/a.png"), "'https://example.org/a.png' is not fetched"),
    "a file address": (changed(url="file:///etc/passwd"), "'file:///etc/passwd' is not fetched"),
    "no base64": (changed(url="data:image/png;base64,!!"), "not valid base64"),
    "no image": (changed(url=data_url(b"hello")), "the bytes are not an image"),
    "another type": (changed(url=data_url(PNG, "jpeg")), "media_type is image/jpeg, but the bytes are image/png"),
    "GIF": (changed(url=data_url(b"GIF89a" + bytes(9), "gif")), "is image/gif; training takes PNG and JPEG"),
    "no size": (changed(url=data_url(PNG[:20])), "has no size in its header"),
    "zero size": (changed(url=data_url(png(0, 3))), "has no size in its header"),
    "two sources": (changed(url=data_url(PNG), path="a.png"), "an image has one of url, base64 and path"),
    "none": (changed(), "an image has one of url, base64 and path"),
    "detail": (changed(path="a.png", detail="high"), "detail has no effect on training"),
    "not there": (changed(path="b.png"), "b.png does not exist"),
    "a folder": (changed(path="images"), "images is a directory"),
    "outside": (changed(path="../secret.png"), "../secret.png is not in the folder of the data file"),
    "absolute": (changed(path="/etc/passwd"), "/etc/passwd is not in the folder of the data file"),
    "a link to outside": (changed(path="link.png"), "link.png is not in the folder of the data file"),
    "too large": (changed(path="large.png"), "large.png is larger than 8 MiB"),
    "a FIFO": (changed(path="fifo.png"), "fifo.png is not a regular file"),
    "a zero byte": (changed(path="a\0.png"), "is not in the folder of the data file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_refused(tmp_path: Path, case: str) -> None:
    """With its line and field, and the others; nothing outside of the folder is read."""
    part, complaint = BAD[case]
    folder = tmp_path / "data"
    written(folder / "images" / "a.png", PNG)
    written(tmp_path / "secret.png", PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.truncate(written(folder / "large.png", PNG), MAX_IMAGE_BYTES + 1)
    os.mkfifo(folder / "fifo.png")
    pinned = pin_data(data_of(folder, row(), row(part), row(part)))
    assert not pinned.images
    with pytest.raises(InvalidJob) as refused:
        load_data(pinned)
    assert "2 of 3 rows are bad" in refused.value.message
    assert "line 2: messages[0]" in refused.value.message
    assert complaint in refused.value.message


def test_a_backend_without_images_refuses_them_by_name(tmp_path: Path) -> None:
    """All rows at once, in a check and in the worker."""
    data = data_of(tmp_path, row({"type": "image", "url": data_url(PNG)}), row())
    rendering = Rendering(ByteTokenizer(), 4096, no_images="the backend 'other' takes none in training")
    check_file(data_of(tmp_path, row(), name="b.jsonl"), 0, rendering)
    counts = new_counts(data, 0)
    for example in load_data(data).examples:
        rendering.datums(example, counts)
    with pytest.raises(InvalidJob, match=r"line 1: has an image, and the backend 'other' takes none in training"):
        counts.bad.raise_if_any(2)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_images_are_pinned(tmp_path: Path, name: str) -> None:
    """By the digest of each, in lines and in arrays; a change after submit is noticed."""
    path = written(tmp_path / "images" / "a.png", PNG)
    rows = [row({"type": "image", "path": "images/a.png"}), row()]
    written(tmp_path / name, (json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))).encode())
    pinned = pin_data(TrainingData(path=str(tmp_path / name)))
    assert {key: (each.path, each.sha256) for key, each in pinned.images.items()} == {
        "images/a.png": (str(path), hashlib.sha256(PNG).hexdigest())
    }
    examples = load_data(pinned).examples
    written(path, png(60, 30, 9))
    with pytest.raises(DataChanged, match=r"the image .*a.png has changed since the job was submitted"):
        Rendering(ByteTokenizer(), 4096).datums(examples[0], new_counts(pinned, 0))


def test_an_image_is_part_of_what_a_row_is(tmp_path: Path) -> None:
    """Rows with other images are other rows: for a split, and for runs that share a data set."""
    same = [data_of(tmp_path / each, row({"type": "image", "path": "a.png"})) for each in ("x", "y", "z")]
    for each, shade in zip("xyz", (1, 1, 2), strict=True):
        written(tmp_path / each / "a.png", png(30, 30, shade))
    examples = [load_data(pin_data(data)).examples[0] for data in same]
    hashes = [content_hash(example) for example in examples]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len({example.images[0].sha256 for example in examples}) == 2


def test_a_pair_is_one_row_in_all_counts(tmp_path: Path) -> None:
    """Bad, cut or skipped in one of its answers or in both; and another image of the rejected answer is another
    pair."""

    def pair(shade: int, chosen: str = "Yes.", rejected: str = "No.") -> dict[str, Any]:
        asked = row({"type": "image", "url": data_url(png(30, 30, shade))})["messages"][:1]
        return {"chosen": [*row()["messages"][:1], {"role": "assistant", "content": chosen}],
                "rejected": [*asked, {"role": "assistant", "content": rejected}]}  # fmt: skip

    rows = [pair(1), pair(2), pair(3, "y" * 90), pair(4, "y" * 90, "n" * 90)]
    data = data_of(tmp_path, *rows, format="preference")
    examples = load_data(data).examples
    assert len({content_hash(example) for example in examples[:2]}) == 2
    counts = {}
    for on_long, no_images in (("cut", ""), ("skip", ""), ("error", ""), ("cut", "there are none")):
        tally = new_counts(data, 0)
        rendering = Rendering(ByteTokenizer(), 40, on_long, no_images=no_images)  # type: ignore[arg-type]
        for example in examples:
            rendering.datums(example, tally)
        counts[on_long, no_images] = [tally.examples, tally.cut.first, tally.skipped.first, tally.bad.lines]
    assert counts == {
        ("cut", ""): [4, [3, 4], [], []],
        ("skip", ""): [2, [], [3, 4], []],
        ("error", ""): [2, [], [], [3, 4]],
        ("cut", "there are none"): [0, [], [], [1, 2, 3, 4]],
    }
