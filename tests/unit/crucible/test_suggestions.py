"""What an error for an unknown name suggests."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.values.suggestions import MAX_LISTED, known_names, nearest

FIELDS = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("learningrate", "learning_rate"),
        ("lerning_rate", "learning_rate"),
        ("Learning-Rate", "learning_rate"),
        ("LEARNING_RATE", "learning_rate"),
        ("weightdecay", "weight_decay"),
        ("beta_1", "beta1"),
    ],
)
def test_a_misspelled_name_gets_the_one_that_was_meant(written: str, meant: str) -> None:
    assert nearest(written, FIELDS) == meant
    assert known_names(written, FIELDS) == f"did you mean {meant}? known are {', '.join(FIELDS)}"


@pytest.mark.parametrize("written", ["", "zzzzz", "x" * 10_000, 5, None, ["loss"]])
def test_a_name_like_no_other_gets_the_list_alone(written: object) -> None:
    assert nearest(written, FIELDS) is None
    assert known_names(written, FIELDS) == f"known are {', '.join(FIELDS)}"


def test_a_long_list_is_cut_and_says_by_how_much() -> None:
    text = known_names("?", [f"model-{number}" for number in range(MAX_LISTED + 2)], are="the service has")
    assert text.startswith("the service has model-0, model-1, ")
    assert text.endswith(f"model-{MAX_LISTED - 1}, and 2 more")


def test_without_known_names_the_list_says_so() -> None:
    assert known_names("loss", []) == "known are none"


@given(st.sampled_from(FIELDS), st.integers(min_value=0), st.sampled_from(string.ascii_lowercase))
def test_one_wrong_letter_never_hides_a_name_of_some_length(name: str, place: int, letter: str) -> None:
    at = place % len(name)
    assert nearest(name[:at] + letter + name[at + 1 :], [name, "unrelated"]) == name
