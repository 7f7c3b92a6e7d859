"""The tests that ``make test-slow`` runs instead of ``make test``, each with the short form that stays.

A test is here when it takes long and another shows the same in little time: with fewer parameters, or in one
process. A name that no longer exists fails the run, so that no form is lost when tests are renamed.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import pytest

KEPT: Final[dict[str, Sequence[str]]] = {
    "acceptance/test_benchmarks.py::test_an_interrupted_benchmark_ends_with_its_processes": ["idle-SIGINT"],
    "acceptance/test_data_forms.py::test_a_file_that_changes_while_it_is_read_is_refused": [
        "payload.data.path",
        "payload.eval.data.path",
    ],
    "acceptance/test_lesser_backend.py::test_what_needs_forward_passes_is_refused": ["eval"],
    "integration/dispatch/test_notifications.py::test_wake_ups_are_published_too": ["amqp"],
    "integration/dispatch/test_wakeups.py::test_many_jobs_each_end_once_on_two_workers": ["postgres-rabbitmq"],
    "integration/in_process/test_sigkill.py::test_a_killed_worker_costs_no_rollout": ["fake-newer"],
    "integration/in_process/test_scored_answers.py::"
    "test_a_single_answer_is_the_result_and_a_trained_model_scores_too": ["fake"],
    "integration/tinkex_backend/test_taken_names_job.py::test_a_save_whose_name_is_taken_fails_no_job": [
        "one that says nothing-save_weights",
        "a service without listings-save_weights_for_sampler",
    ],
    "integration/training/test_continued_runs.py::test_a_decaying_schedule_is_given_anew": ["schedule0"],
    "integration/training/test_continued_runs.py::test_extended_twice_a_run_equals_one_of_the_whole_length": [
        "fake"
    ],
    "integration/training/test_continued_runs.py::test_killed_at_every_point": ["True-service1", "False-service0"],
    "integration/training/test_distillation.py::test_killed_in_between": ["mixture"],
    "integration/training/test_evaluation.py::test_killed_at_every_point": ["3-repeats"],
    "integration/training/test_examples.py::test_the_example_runs": ["evaluate.yaml", "mixture.yaml"],
    "integration/training/test_objectives.py::test_killed_at_every_point": ["3-{'replays': False}"],
    "integration/training/test_preference.py::test_killed_at_every_point": ["{'replays': False}"],
    "integration/training/test_real_backends.py::test_a_run_killed_at_many_points_is_taken_over_warm": ["True-41"],
    "integration/training/test_reinforcement.py::test_a_lost_run_trains_on_the_rollouts_of_the_journal": [
        "lose_model-stable_reinforce",
        "corrupt-importance_sampling",
    ],
    "integration/training/test_reinforcement.py::test_killed_at_every_point": ["guess"],
    "integration/training/test_reinforcement.py::test_no_turn_is_sampled_twice": ["ppo-ahead", "stable_reinforce"],
    "integration/training/test_rollout_reference.py::test_rollouts_of_a_lost_run": ["drop"],
    "integration/training/test_rollout_reference.py::test_rollouts_whose_weights_are_gone_are_not_dropped": [
        "substeps"
    ],
    "integration/training/test_survival.py::test_killed_at_every_point": [
        "3-repeats-1",
        "3-orders-3",
        "3-unknown-2",
        "3-dies with its client-2",
    ],
    "integration/training/test_survival.py::test_killed_at_every_point_of_every_checkpoint_policy": [
        "best",
        "last",
    ],
    "integration/training/test_task_evaluation.py::test_killed_at_every_point": ["ahead"],
    "integration/worker/test_celery_command.py::test_a_job_runs_under_celerys_command": ["prefork"],
    "integration/worker/test_declines.py::test_a_job_waits_for_the_worker_that_has_the_file": ["embedded"],
    "integration/worker/test_declines.py::test_a_job_waits_for_the_worker_that_has_the_key": ["postgres-rabbitmq"],
    "integration/worker/test_faults.py::test_the_job_of_a_killed_worker_is_taken_over": ["postgres-rabbitmq"],
    "integration/worker/test_killed_batch.py::test_a_killed_batch_is_completed_by_a_worker_with_another_disk": [
        "embedded"
    ],
    "integration/worker/test_pipelines.py::test_the_example_samples_filters_trains_and_evaluates": ["fake"],
    "integration/worker/test_presence.py::test_no_function_runs_twice_at_once": ["process"],
    "integration/worker/test_recovery_blocks.py::test_a_corrupted_run_is_recovered_whatever_the_block_names": [
        "none",
        "max_attempts",
    ],
    "integration/worker/test_visible_waits.py::test_a_waiting_job_says_why": ["503 at a pass", "out of credit"],
    "page/test_databases.py::test_every_page_on_each_database": ["postgres"],
}
"""The parameters of a test that ``make test`` runs; the others are long forms."""

INSTEAD: Final[dict[str, str]] = {
    "acceptance/test_deploy.py::test_each_alert_fires_at_its_trouble_alone": "acceptance/test_deploy.py",
    "acceptance/test_docs.py::test_the_page_on_models_runs": "acceptance/test_serve_command.py",
    "acceptance/test_docs.py::test_the_page_on_testing_runs": "integration/testing/test_virtual_clock.py",
    "chaos/test_many_jobs.py::test_each_of_many_jobs_ends_once": "chaos/test_chaos.py",
    "contract/stranger/test_plugin_package.py::test_the_command_line_lists_it": (
        "contract/stranger/test_plugin_package.py"
    ),
    "families/test_killed_pipelines.py::test_killed_workers_of_a_pipeline_change_no_bit": (
        "families/test_killed_families.py"
    ),
    "integration/dev_server/test_many_runs.py::test_forty_runs_at_once_each_learn_as_if_alone": (
        "integration/training/test_real_backends.py"
    ),
    "integration/training/test_distillation.py::test_the_first_20_losses_are_those_of_an_independent_loop": (
        "integration/training/test_preference.py"
    ),
    "integration/training/test_rollout_reference.py::test_distillation_on_the_student_s_own_answers": (
        "integration/training/test_rollout_reference.py"
    ),
    "integration/worker/test_killed_batch.py::"
    "test_a_killed_run_on_the_answers_of_a_batch_is_continued_on_another_disk": (
        "integration/worker/test_killed_batch.py"
    ),
    "integration/worker/test_killed_rollouts.py": "integration/in_process/test_sigkill.py",
    "integration/worker/test_killed_sinks.py": "integration/worker/test_sinks.py",
    "integration/worker/test_rolling_restart.py": "integration/worker/test_worker_end.py",
    "page/test_browser.py": "page/test_pages.py",
    "verify/test_mutants.py::"
    "test_a_job_that_is_taken_from_a_live_owner_and_a_dead_one_leaves_a_clean_history": "verify/test_mutants.py",
    "verify/test_outages.py": "integration/worker/test_faults.py",
}
"""A long form, and the file with its short form."""


def mark_long_forms(items: Sequence[pytest.Item], *, whole: bool) -> None:
    """Mark the long forms as slow.

    With ``whole``, every test is collected, and UsageError names the entries above that fit to none.
    """
    unused = {*KEPT, *INSTEAD, *(f"{test}[{kept}]" for test, names in KEPT.items() for kept in names)}
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        test, _, parameters = name.partition("[")
        file = test.partition("::")[0]
        unused -= {name, test, file}
        if {test, file} & INSTEAD.keys() or (test in KEPT and parameters.removesuffix("]") not in KEPT[test]):
            item.add_marker(pytest.mark.slow)
    if whole:
        _require_none(unused | _without_quick_tests(items))


def _without_quick_tests(items: Sequence[pytest.Item]) -> set[str]:
    """The files that are named as short forms and hold none."""
    quick = {item.nodeid.removeprefix("tests/").partition("::")[0] for item in items if not _is_slow(item)}
    return set(INSTEAD.values()) - quick


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _require_none(names: Iterable[str]) -> None:
    if missing := sorted(names):
        raise pytest.UsageError(f"tests/long_forms.py names tests that do not exist: {', '.join(missing)}")
