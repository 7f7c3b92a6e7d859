"""Every answer of the table, through the openai backend: whole and streamed, good and bad."""

from collections.abc import Iterator

import pytest

pytest.importorskip("openai")

from backends.openai import OpenAIBackend
from tests.contract.answer_forms import Scenario
from tests.contract.answer_judge import judge
from tests.contract.answer_scenarios import SCENARIOS
from tests.contract.answer_server import AnswerServer


@pytest.fixture(scope="module")
def server() -> Iterator[AnswerServer]:
    """One server for all tests here."""
    with AnswerServer() as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_an_answer(server: AnswerServer, scenario: Scenario) -> None:
    """Complete and stream give the same, or the same error; it is in our family and of the right class."""
    backend = OpenAIBackend({"base_url": server.url, "api_key": "sk-0123456789", "max_retries": 0, "models": ["m"]})
    judge(backend, server, scenario)


def test_the_table_is_large() -> None:
    """At least 40 scenarios."""
    assert len(SCENARIOS) >= 40
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
