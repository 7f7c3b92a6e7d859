"""The result of a function: JSON as it stands, or an error that names the field; files in the job's folder only."""

import dataclasses
import json
import math
from collections import OrderedDict
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.python.results import result_object
from crucible.errors import MalformedAnswer
from tests.functions import BAD_RESULTS, bad_result

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=5)
    | st.binary(max_size=3)
)
results = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


def is_json(value: Any) -> bool:
    """Whether a value has a form in JSON that every store and reader can hold."""
    match value:
        case None | bool():
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)
        case str():
            return not any("\ud800" <= char <= "\udfff" for char in value)
        case list() | tuple():
            return all(map(is_json, value))
        case dict():
            return all(isinstance(key, str) and is_json(key) and is_json(item) for key, item in value.items())
    return False


@given(results)
def test_a_result_is_kept_or_refused(value: Any) -> None:
    """Whatever is stored can be read again and equals what was returned."""
    if not is_json(value):
        with pytest.raises(MalformedAnswer, match=r"^result"):
            result_object(value, Path("/nowhere"))
        return
    result = result_object(value, Path("/nowhere"))
    expected = {} if value is None else value if isinstance(value, dict) else {"value": value}
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(expected))


@pytest.mark.parametrize("kind", BAD_RESULTS)
def test_a_value_without_a_form_in_json_is_refused(kind: str) -> None:
    """Without another exception, however it is nested."""
    with pytest.raises(MalformedAnswer, match="result"):
        result_object({"a": [bad_result(kind)]}, Path("/nowhere"))


def test_the_field_is_named() -> None:
    """From the result down."""
    with pytest.raises(MalformedAnswer, match=r"^result\.losses\[1\]: nan is not valid JSON"):
        result_object({"losses": [0.5, math.nan]}, Path("/nowhere"))


class Colour(Enum):
    """An enum."""

    RED = "red"


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    colours: tuple[Colour, ...] = (Colour.RED,)


def test_records_are_converted() -> None:
    """Dataclasses, enums, tuples and subclasses of dict."""
    assert result_object(OrderedDict(point=Point(1)), Path("/nowhere")) == {"point": {"x": 1, "colours": ["red"]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with a file, beside a secret."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "job"
    (folder / "sub").mkdir(parents=True)
    (folder / "report.txt").write_text("done")
    (folder / "link").symlink_to(tmp_path / "secret.txt")
    (folder / "loop").symlink_to(folder / "loop")
    return folder


@pytest.mark.parametrize("name", ["report.txt", "./report.txt", "sub/../report.txt"])
def test_a_file_is_an_absolute_path(folder: Path, name: str) -> None:
    """Given relative to the folder, or absolute."""
    expected = {"files": [str(folder.resolve() / "report.txt")]}

    assert result_object({"files": [Path(name)]}, folder) == expected
    assert result_object({"files": [folder / name]}, folder) == expected


@pytest.mark.parametrize(
    "name", ["missing", "sub", ".", "../secret.txt", "link", "/dev/null", "/etc/passwd", "loop"]
)
def test_only_regular_files_of_the_folder(folder: Path, name: str) -> None:
    """Neither what is missing, nor a folder or device, nor what a link leads to."""
    with pytest.raises(MalformedAnswer, match=r"^result\.file: "):
        result_object({"file": Path(name)}, folder)


def test_a_path_with_nul_is_refused(folder: Path) -> None:
    """It cannot exist."""
    with pytest.raises(MalformedAnswer, match=r"^result\.file: "):
        result_object({"file": Path("a\0b")}, folder)
