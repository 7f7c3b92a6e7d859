"""The Celery application: the queues, the configuration and the wake-up task of a worker.

docs/explanation/celery.md explains the configuration, and why results, retries, countdowns, revokes, chords, beat
and remote control are unused. ``celery -A nsai_work.worker.celery_app worker`` works too, with any pool: the
consumer itself passes wake-ups to the runtime, so none reaches the pool.
"""

import json
from collections.abc import Callable
from typing import Any

from celery import Celery

from nsai_work.dispatch.bootstep import RuntimeHandle, RuntimeStep
from nsai_work.dispatch.broker import transport_options
from nsai_work.dispatch.inbox import Inbox
from nsai_work.dispatch.queues import queue_name, wake_queues
from nsai_work.dispatch.spool import register_spool
from nsai_work.dispatch.wakeup import TASK_NAME, decode
from nsai_work.job import Priority
from nsai_work.settings import Settings


class WorkApp(Celery):  # type: ignore[misc]  # celery is untyped
    """A Celery application with an inbox for wake-ups. Each worker calls ``make_runtime`` once."""

    def __init__(self, settings: Settings, make_runtime: Callable[[], RuntimeHandle]) -> None:
        super().__init__("nsai_work", set_as_current=False)
        self.settings = settings
        self.make_runtime = make_runtime
        self.inbox = Inbox()


def make_app(settings: Settings, make_runtime: Callable[[], RuntimeHandle]) -> WorkApp:
    """Create the application for these settings. Opens no connection."""
    register_spool()
    app = WorkApp(settings, make_runtime)
    app.conf.update(_configuration(settings))
    app.steps["worker"].add(RuntimeStep)

    # the consumer handles each message before it reaches a pool: this body runs only when called directly
    def wake(**message: Any) -> None:
        """Wake the worker up: a job may be claimable."""
        app.inbox.put(decode(json.dumps([[], message, {}])))

    app.task(name=TASK_NAME, ignore_result=True)(wake)
    return app


def _configuration(settings: Settings) -> dict[str, Any]:
    prefix = settings.queue_prefix
    return {
        "broker_url": settings.broker_url,
        "broker_transport_options": transport_options(settings),
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        # without end: workers poll the store meanwhile, so giving up could only make things worse
        "broker_connection_max_retries": None,
        "broker_heartbeat": 10,
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_queues": tuple(wake_queues(prefix, settings.broker_url)),
        "task_default_queue": queue_name(prefix, Priority.BATCH),
        "task_default_exchange": prefix,
        "task_default_exchange_type": "direct",
        "task_create_missing_queues": False,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_send_sent_event": False,
        "worker_consumer": "nsai_work.dispatch.consumer:WakeConsumer",
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "worker_enable_prefetch_count_reduction": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # wake-ups are tiny and acknowledged on receipt; a deep prefetch saves round trips
        "worker_prefetch_multiplier": 64,
        "worker_detect_quorum_queues": True,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "enable_utc": True,
    }
