"""The tests that ``make test-slow`` runs instead of ``make test``, each with the short form that stays.

A test is here when it takes long and another shows the same in little time: with fewer parameters, or in one
process. A name that no longer exists fails the run, so that no form is lost when tests are renamed.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import pytest

HERE: Final = "here"

LONG_FILES: Final[dict[str, str]] = {
    "integration/worker/test_killed_rollouts.py": "integration/in_process/test_sigkill.py",
    "integration/worker/test_killed_sinks.py": "integration/worker/test_sinks.py",
    "integration/worker/test_rolling_restart.py": "integration/worker/test_worker_end.py",
    "page/test_browser.py": "page/test_pages.py",
    "verify/test_outages.py": "integration/worker/test_faults.py",
}
"""Files of long forms alone, each with the file of its short form."""

LONG_FORMS: Final[dict[str, dict[str, Sequence[str] | int | str]]] = {
    "acceptance/test_benchmarks.py": {"test_an_interrupted_benchmark_ends_with_its_processes": ["idle-SIGINT"]},
    "acceptance/test_data_forms.py": {
        "test_a_file_that_changes_while_it_is_read_is_refused": ["payload.data.path"],
        "test_pairs_with_images_train_where_images_are_taken": HERE,
    },
    "acceptance/test_deploy.py": {
        "test_each_alert_fires_at_its_trouble_alone": HERE,
        "test_the_services_of_the_compose_file_train_the_example": HERE,
    },
    "acceptance/test_docs.py": {
        "test_the_page_on_functions_runs": "integration/worker/test_functions.py",
        "test_the_page_on_models_runs": "acceptance/test_serve_command.py",
        "test_the_page_on_testing_runs": "integration/testing/test_virtual_clock.py",
    },
    "acceptance/test_job_commands.py": {
        "test_a_worker_says_in_json_that_it_is_ready": "integration/worker/test_celery_command.py",
        "test_cancel_while_running": "integration/worker/test_functions.py",
        "test_ctrl_c_requeues_the_job": "acceptance/test_run_command.py",
        "test_json_output": "acceptance/test_commands_without_jobs.py",
        "test_promote_removes_the_expiry_at_the_service": "integration/tinkex_backend/test_promote.py",
        "test_the_example_runs_beside_a_dev_server": "acceptance/test_docs.py",
    },
    "acceptance/test_lesser_backend.py": {
        "test_what_needs_forward_passes_is_refused": ["eval"],
        "test_what_needs_no_forward_passes_trains": HERE,
    },
    "acceptance/test_private_home.py": {
        "test_a_command_makes_a_private_home": ["run"],
        "test_a_dev_server_makes_a_private_home": HERE,
    },
    "acceptance/test_prune_checkpoints.py": {
        "test_a_promoted_checkpoint_and_its_job_are_kept": HERE,
        "test_a_service_that_fails_loses_nothing_and_the_next_run_continues": HERE,
    },
    "acceptance/test_run_command.py": {
        "test_run_of_a_list": "unit/client/test_jobfile.py",
        "test_run_of_an_interrupted_job_goes_on_where_it_stopped": "integration/in_process/test_sigkill.py",
    },
    "acceptance/test_submit_without_key.py": {
        "test_submit_without_a_key_is_accepted_and_a_worker_with_the_key_runs_it": (
            "integration/worker/test_declines.py"
        ),
    },
    "acceptance/test_terminal.py": {"test_a_run_has_a_bar": HERE},
    "chaos/test_many_jobs.py": {"test_each_of_many_jobs_ends_once": "chaos/test_chaos.py"},
    "contract/stranger/test_plugin_package.py": {
        "test_the_command_line_completes_with_it": HERE,
        "test_the_command_line_lists_it": HERE,
        "test_the_commands_of_the_page_run": 1,
        "test_what_it_does_not_claim_is_refused_with_its_name": HERE,
    },
    "contract/test_python.py": {"TestIsolatedFunction::test_commands_run_at_the_same_time": HERE},
    "families/test_killed_pipelines.py": {
        "test_killed_workers_of_a_pipeline_change_no_bit": "families/test_killed_families.py",
    },
    "integration/chat_server/test_official_client.py": {
        "test_a_chat_has_the_trained_answer": HERE,
        "test_an_error_has_the_form_of_the_api": 14,
    },
    "integration/dev_server/test_command.py": {
        "test_a_port_that_is_taken_is_said": HERE,
        "test_a_second_server_on_one_state_folder_is_refused": HERE,
        "test_a_signal_ends_it_well_though_a_call_is_held": ["terminate"],
        "test_the_number_of_threads_changes_no_bit": HERE,
        "test_the_state_folder_is_in_the_home_folder": ["h-h"],
    },
    "integration/dev_server/test_many_runs.py": {
        "test_forty_runs_at_once_each_learn_as_if_alone": "integration/training/test_real_backends.py",
    },
    "integration/dev_server/test_sampling.py": {
        "test_narrowed_to_one_token_sampling_is_greedy": 1,
        "test_stop_texts_and_tokens": ["stop2-Hamlet"],
    },
    "integration/dispatch/test_notifications.py": {"test_wake_ups_are_published_too": HERE},
    "integration/dispatch/test_wakeups.py": {
        "test_a_stale_or_duplicate_wake_up_runs_nothing_twice": ["postgres-rabbitmq"],
        "test_celerys_send_task_wakes_a_worker": 1,
        "test_malformed_messages_are_acknowledged_and_counted": 2,
        "test_many_jobs_each_end_once_on_two_workers": ["postgres-rabbitmq"],
    },
    "integration/in_process/test_scored_answers.py": {
        "test_a_single_answer_is_the_result_and_a_trained_model_scores_too": ["fake"],
        "test_scores_are_what_an_evaluation_says": ["tinkex"],
        "test_wrong_scores_of_a_backend_are_an_error_of_their_row": 2,
    },
    "integration/in_process/test_sigkill.py": {
        "test_a_killed_worker_costs_no_rollout": "integration/training/test_reinforcement.py",
    },
    "integration/store/test_blobs.py": {
        "test_a_damaged_piece_is_an_error_that_names_the_blob": 6,
        "test_a_process_that_is_killed_leaves_what_can_be_pruned": 2,
    },
    "integration/store/test_events_so_far.py": {"test_it_follows_from_a_part_of_the_events_as_from_all": 12},
    "integration/store/test_shares.py": {
        "test_while_priorities_wait_each_gets_its_share": ["postgres-by_door", "sqlite-by_general_path"],
    },
    "integration/store/test_unreadable_journals.py": {"test_the_error_names_table_row_and_field": 10},
    "integration/store/test_unreadable_rows.py": {
        "test_a_field_that_this_version_refuses_is_named": 10,
        "test_a_spec_that_is_no_job_is_named_and_stops_no_other": 6,
    },
    "integration/store/test_wait_reasons.py": {"test_every_wait_has_its_reason": 7},
    "integration/test_closed_connections.py": {"test_no_connection_is_left": 8},
    "integration/test_shadowed_packages.py": {"test_doctor_names_a_projects_own_backends_folder": HERE},
    "integration/testing/test_isolated_store.py": {"test_a_job_that_cannot_start_is_named": HERE},
    "integration/testing/test_virtual_clock.py": {"test_a_clock_that_jumps_does_not_take_a_running_job_away": HERE},
    "integration/tinkex/test_arguments_at_the_call.py": {"test_a_batch_is_sent_as_it_was": 6},
    "integration/tinkex/test_compressed_answers.py": {"test_a_bomb_is_a_malformed_answer": 4},
    "integration/tinkex/test_failures.py": {"test_passing_troubles_change_nothing": 5},
    "integration/tinkex_backend/test_chat_features.py": {"test_a_tool_call_is_read_from_the_answer": ["malformed"]},
    "integration/tinkex_backend/test_foreign_service.py": {
        "test_a_killed_job_resumes_on_a_foreign_service": "integration/tinkex_backend/test_recovery.py",
    },
    "integration/tinkex_backend/test_order_probe.py": {
        "test_every_kind_of_server_is_known_for_what_it_is_and_trains_as_before": [
            "by arrival",
            "by number",
            "runs repeats again, and refuses what is early",
        ],
    },
    "integration/tinkex_backend/test_promote.py": {
        "test_from_async_code": HERE,
        "test_names_that_are_none": HERE,
        "test_one_that_only_the_store_knew_to_be_kept": HERE,
        "test_the_weights_to_sample_from_are_kept_too": HERE,
    },
    "integration/tinkex_backend/test_taken_names_job.py": {
        "test_a_save_whose_name_is_taken_fails_no_job": "integration/tinkex_backend/test_taken_names.py",
    },
    "integration/training/test_checkpoints.py": {
        "test_a_run_corrupted_at_any_step_goes_back_save_every_at_most": 8,
    },
    "integration/training/test_continued_runs.py": {
        "test_a_decaying_schedule_is_given_anew": ["schedule0"],
        "test_extended_twice_a_run_equals_one_of_the_whole_length": HERE,
        "test_killed_at_every_point": HERE,
    },
    "integration/training/test_distillation.py": {
        "test_killed_in_between": HERE,
        "test_the_first_20_losses_are_those_of_an_independent_loop": "integration/training/test_preference.py",
    },
    "integration/training/test_evaluation.py": {
        "test_killed_again_and_again": HERE,
        "test_killed_at_every_point": ["3-repeats"],
    },
    "integration/training/test_examples.py": {"test_the_example_runs": ["evaluate.yaml"]},
    "integration/training/test_faulty_environments.py": {"test_a_failed_rollout_is_counted_with_its_reason": 6},
    "integration/training/test_initial_weights.py": {"test_killed_at_every_point": 1},
    "integration/training/test_objectives.py": {
        "test_killed_again_and_again": HERE,
        "test_killed_at_every_point": "integration/training/test_preference.py",
    },
    "integration/training/test_preference.py": {
        "test_killed_again_and_again": HERE,
        "test_killed_at_every_point": ["{'replays': False}"],
        "test_killed_on_the_fake_backend": HERE,
        "test_the_first_20_losses_are_those_of_an_independent_loop": HERE,
    },
    "integration/training/test_real_backends.py": {
        "test_a_fault_changes_no_bit": 5,
        "test_a_request_that_is_refused_with_others_behind_it_ends_the_run": 1,
        "test_a_run_killed_at_many_points_is_taken_over_warm": HERE,
        "test_every_checkpoint_strategy_has_a_recent_state": 2,
        "test_where_repeats_run_again_a_death_means_a_restore": HERE,
    },
    "integration/training/test_reinforcement.py": {
        "test_a_lost_run_trains_on_the_rollouts_of_the_journal": ["corrupt-importance_sampling"],
        "test_killed_again_and_again": HERE,
        "test_killed_at_every_point": ["guess"],
        "test_no_turn_is_sampled_twice": ["ppo-ahead"],
    },
    "integration/training/test_rollout_reference.py": {
        "test_distillation_on_the_student_s_own_answers": HERE,
        "test_each_newer_field_under_kills_and_restores": HERE,
        "test_killed_at_every_point": 1,
        "test_rollouts_of_a_lost_run": HERE,
        "test_rollouts_whose_weights_are_gone_are_not_dropped": HERE,
    },
    "integration/training/test_rollout_teacher.py": {"test_killed_in_between": 1},
    "integration/training/test_sampler_releases.py": {
        "test_weights_are_deleted_behind_the_run": ["ahead-evaluated"],
    },
    "integration/training/test_survival.py": {
        "test_deaths_and_faults_together": HERE,
        "test_killed_again_and_again": HERE,
        "test_killed_at_every_point": ["3-repeats-1", "3-orders-3"],
        "test_killed_at_every_point_of_every_checkpoint_policy": HERE,
    },
    "integration/training/test_task_evaluation.py": {"test_killed_at_every_point": HERE},
    "integration/training/test_token_episodes.py": {"test_killed_at_every_point": HERE},
    "integration/worker/test_asked_models.py": {"test_an_opponent_is_a_base_model_or_that_of_another_job": HERE},
    "integration/worker/test_celery_command.py": {"test_a_job_runs_under_celerys_command": ["prefork"]},
    "integration/worker/test_declines.py": {
        "test_a_job_waits_for_the_worker_that_has_the_file": ["embedded"],
        "test_a_job_waits_for_the_worker_that_has_the_key": ["postgres-rabbitmq"],
    },
    "integration/worker/test_faults.py": {
        "test_a_database_outage": 1,
        "test_the_job_of_a_killed_worker_is_taken_over": ["postgres-rabbitmq"],
    },
    "integration/worker/test_frozen_functions.py": {"test_it_ends_before_the_next_owner_starts_it": HERE},
    "integration/worker/test_functions.py": {
        "test_a_function_may_request_another_attempt": ["False"],
        "test_a_job_waits_for_a_worker_that_has_the_function": 1,
        "test_a_running_function_is_canceled": 2,
        "test_a_time_limit_ends_a_function": 2,
    },
    "integration/worker/test_imports.py": {
        "test_opening_a_backend_imports_nothing_on_the_event_loop": "unit/test_packages.py",
    },
    "integration/worker/test_json_log.py": {"test_celerys_command_logs_json_too": HERE},
    "integration/worker/test_killed_batch.py": {
        "test_a_killed_batch_is_completed_by_a_worker_with_another_disk": ["embedded"],
        "test_a_killed_run_on_the_answers_of_a_batch_is_continued_on_another_disk": HERE,
    },
    "integration/worker/test_killed_training.py": {
        "test_a_worker_killed_in_the_middle_of_a_window_costs_no_step": "integration/in_process/test_sigkill.py",
    },
    "integration/worker/test_learned_models.py": {
        "test_a_command_saves_a_state_for_sampling_and_says_so": HERE,
        "test_a_run_learns_from_what_another_has_made": ["sources"],
        "test_a_state_is_saved_for_sampling_where_a_service_needs_it": HERE,
    },
    "integration/worker/test_pipelines.py": {
        "test_a_run_starts_with_the_weights_of_another": HERE,
        "test_every_attempt_reads_the_same": HERE,
        "test_the_answers_of_a_batch_are_rows_mapped_or_dropped": ["sources"],
        "test_the_example_samples_filters_trains_and_evaluates": ["fake"],
    },
    "integration/worker/test_presence.py": {
        "test_a_frozen_owner_is_left_to_its_lease": HERE,
        "test_an_owner_that_is_back_within_the_grace_loses_nothing": HERE,
        "test_no_function_runs_twice_at_once": HERE,
    },
    "integration/worker/test_recovery_blocks.py": {
        "test_a_corrupted_run_is_recovered_whatever_the_block_names": ["max_attempts"],
        "test_on_cold_optimizer_stop_stops": 1,
        "test_with_recovery_off_a_corrupted_run_costs_one_attempt_and_a_retry_restores": HERE,
    },
    "integration/worker/test_sinks.py": {
        "test_a_sink_that_fails_does_not_hurt_the_run": HERE,
        "test_a_sink_that_hangs_does_not_hold_the_run": HERE,
        "test_a_write_that_is_not_counted_is_not_repeated": HERE,
        "test_after_a_cold_restore_a_segment_begins": HERE,
        "test_steps_that_an_exact_restore_repeats_are_not_written_again": HERE,
    },
    "integration/worker/test_traces.py": {"test_a_trace_that_is_sampled_out_stays_out_to_the_service": HERE},
    "integration/worker/test_visible_waits.py": {"test_a_waiting_job_says_why": ["out of credit"]},
    "integration/worker/test_wait_table.py": {
        "test_every_view_says_why_a_job_waits": ["no worker", "out of credit"],
    },
    "integration/worker/test_worker_end.py": {
        "test_a_job_that_ignores_its_cancellation_does_not_keep_the_worker": HERE,
    },
    "page/test_databases.py": {"test_every_page_on_each_database": ["postgres"]},
    "unit/crucible/test_decompression.py": {"test_a_bomb_takes_no_more_memory_than_the_limit": 1},
    "unit/crucible/test_forks.py": {"test_importing_registers_nothing": HERE},
    "unit/crucible/test_verifiers_settings.py": {
        "test_modules_that_were_not_made_for_it_are_not_imported": ["numpy"],
    },
    "unit/python_backend/test_process.py": {"test_it_ends_before_another_worker_may_run_it": ["never_checks"]},
    "unit/test_packages.py": {"test_everything_can_be_imported_under_a_frozen_clock": HERE},
    "verify/test_mutants.py": {
        "test_a_job_that_is_taken_from_a_live_owner_and_a_dead_one_leaves_a_clean_history": HERE,
        "test_turns_of_a_lost_session_are_sampled_anew_and_reported": HERE,
    },
}
"""By file and test, what ``make test`` runs of it: the parameters that are named, or so many of them, spread over
all; or nothing, for a test whose short form is in the named file, or in its own (HERE)."""


def mark_long_forms(items: Sequence[pytest.Item], *, whole: bool) -> None:
    """Mark the long forms as slow.

    With ``whole``, every test is collected, and UsageError names the entries above that fit to none.
    """
    forms: dict[tuple[str, str], list[pytest.Item]] = {
        (file, test): [] for file, tests in LONG_FORMS.items() for test in tests
    }
    unused = set(LONG_FILES)
    for item in items:
        file, test = _names(item)
        unused.discard(file)
        if file in LONG_FILES:
            item.add_marker(pytest.mark.slow)
        elif (file, test) in forms:
            forms[file, test].append(item)
    for (file, test), found in forms.items():
        kept, missing = _kept(LONG_FORMS[file][test], [_parameters(item) for item in found])
        unused |= {f"{file}::{test}[{name}]" for name in missing}
        for item in found:
            if _parameters(item) not in kept:
                item.add_marker(pytest.mark.slow)
    if whole:
        _require_none(unused | _without_quick_tests(items))


def _names(item: pytest.Item) -> tuple[str, str]:
    """The file of a test, and its name without parameters."""
    file, _, test = item.nodeid.removeprefix("tests/").partition("[")[0].partition("::")
    return file, test


def _parameters(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[2].removesuffix("]")


def _kept(asked: Sequence[str] | int | str, found: Sequence[str]) -> tuple[set[str], set[str]]:
    """The parameters that stay, and what is asked for and does not exist."""
    if isinstance(asked, str):
        return set(), set() if found else {""}
    if isinstance(asked, int):
        kept = {name for place, name in enumerate(found) if (place * asked) % len(found) < asked}
        return kept, set() if asked < len(found) else {f"{asked} of {len(found)}"}
    return {*asked}, {*asked} - {*found}


def _without_quick_tests(items: Sequence[pytest.Item]) -> set[str]:
    """The files that are named as short forms and hold none."""
    quick = {_names(item)[0] for item in items if not _is_slow(item)}
    named = {*LONG_FILES.values()}
    for file, tests in LONG_FORMS.items():
        named |= {file if short == HERE else short for short in tests.values() if isinstance(short, str)}
    return named - quick


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _require_none(names: Iterable[str]) -> None:
    if missing := sorted(names):
        raise pytest.UsageError(f"tests/long_forms.py names tests that do not exist: {', '.join(missing)}")
