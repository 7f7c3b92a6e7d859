"""The answers of a worker's HTTP server: liveness, readiness and metrics."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from crucible.errors import CrucibleError
from nsai_work.client.connections import open_job_store
from nsai_work.extras import missing_extra
from nsai_work.settings import Settings
from nsai_work.store import Store
from nsai_work.worker.probes.health import NOT_STARTED, WorkerHealth
from nsai_work.worker.probes.metrics import WorkerMetrics
from nsai_work.worker.probes.probe_server import ProbeResult, Route
from nsai_work.worker.probes.shared_check import SharedCheck
from nsai_work.worker.runtime_thread import RuntimeThread

MAX_AGE_S = 1.0
JSON = "application/json"


class Probes:
    """The routes of a worker's HTTP server. Their connection to the store is their own."""

    def __init__(self, runtime: RuntimeThread, settings: Settings) -> None:
        self._runtime = runtime
        # the runtime migrates; a probe only looks
        self._store: Store = open_job_store(settings.model_copy(update={"migrate": False}))
        patience_s = settings.store_timeout_s
        self._check = SharedCheck(self._store.require_current, max_age_s=MAX_AGE_S, patience_s=patience_s)
        self._patience_s = patience_s
        self._metrics: WorkerMetrics | None = None
        if missing_extra("/metrics") is None:
            self._metrics = WorkerMetrics(runtime, self._store, settings.home, patience_s=patience_s)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The routes, by path."""
        return {"/livez": self.livez, "/readyz": self.readyz, "/metrics": self.metrics}

    def close(self) -> None:
        """Close the connection to the store."""
        if self._metrics is not None:
            self._metrics.close()
        self._store.close()

    def livez(self) -> ProbeResult:
        """Bad while the event loop is late by half a lease, and when the runtime has ended: restart the process."""
        health = self._runtime.health
        # a start may take long: a migration, a database that is not up yet
        return _answer(WorkerHealth(ok=True) if health is NOT_STARTED else health)

    def readyz(self) -> ProbeResult:
        """Bad while the worker claims no jobs: it starts, stops, is late, or its store is away or of another
        version."""
        health = self._runtime.health
        if not health.ok:
            return _answer(health)
        if self._runtime.stopping:
            return _answer(WorkerHealth(ok=False, reason="the worker hands its jobs over and stops"))
        return _answer(WorkerHealth(ok=False, reason=reason) if (reason := self._store_problem()) else health)

    def metrics(self) -> ProbeResult:
        """The metrics in the text format of Prometheus; 501 without the extra."""
        if self._metrics is None:
            return ProbeResult(HTTPStatus.NOT_IMPLEMENTED, f"{missing_extra('/metrics')}\n")
        text, content_type = self._metrics.text()
        return ProbeResult(HTTPStatus.OK, text, content_type)

    def _store_problem(self) -> str | None:
        try:
            self._check.result()
        except CrucibleError as error:
            return error.message
        except TimeoutError:
            return f"the job store has not answered for {self._patience_s:g} s"
        return None


def _answer(health: WorkerHealth) -> ProbeResult:
    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    data = {"ok": health.ok, "reason": health.reason, "loop_late_s": round(health.loop_late_s, 3)}
    return ProbeResult(status, json.dumps(data) + "\n", JSON)
