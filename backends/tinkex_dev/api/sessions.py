"""The routes of sessions, and those that a client calls before it opens one."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.service.run import CUSTOM
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.storage.records import SessionRecord
from backends.tinkex_dev.wire.exchange import answer, metadata_strings, parse, query_number, read, read_body
from backends.tinkex_dev.wire.requests import ClientConfigBody, CreateSession, FinishSession, Heartbeat
from backends.tiny_lm.losses import LOSSES, STAND_INS
from backends.tiny_lm.network import BASE_MODELS, CONTEXT_LENGTH

_CLIENT_CONFIG: Final[dict[str, object]] = {
    "pjwt_auth_enabled": False,
    "credential_default_source": "api_key",
    "parallel_fwdbwd_chunks": True,
    "proto_compress_fwdbwd": False,
    "fwdbwd_max_chunk_len": 1024,
    "fwdbwd_max_chunk_bytes_count": 5_000_000,
    "custom_loss_server_side": True,
    "sample_join_sampling_session": True,
    "sample_use_retrieve_futures": True,
}


class SessionRoutes:
    """Health, capabilities, client configuration, sessions and samplers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self.health),
            Route("/get_server_capabilities", self.capabilities),
            Route("/client/config", self.client_config, methods=["POST"]),
            Route("/client/dynamic_config", self.dynamic_config, methods=["POST"]),
            Route("/create_session", self.create, methods=["POST"]),
            Route("/session_heartbeat", self.heartbeat, methods=["POST"]),
            Route("/telemetry", self.telemetry, methods=["POST"]),
            Route("/sessions", self.list),
            Route("/sessions/{session_id}", self.show),
            Route("/sessions/{session_id}/finish", self.finish, methods=["POST"]),
            Route("/samplers/{sampler_id}", self.sampler),
            Route("/samplers/{sampler_id}", self.delete_sampler, methods=["DELETE"]),
        ]

    async def health(self, _request: Request) -> Response:
        return answer({"status": "ok"})

    async def capabilities(self, _request: Request) -> Response:
        models = [
            {
                "model_name": name,
                "max_context_length": CONTEXT_LENGTH,
                "trainable": True,
                "sampleable": True,
                "description": _description(name),
                "tokenizer_id": self._service.tokenizer,
            }
            for name in BASE_MODELS
        ]
        return answer(
            {
                "supported_models": models,
                "losses": [*LOSSES, CUSTOM],
                "optimizers": ["adamw", "dimuon"],
                "stand_ins": dict(STAND_INS),
            }
        )

    async def client_config(self, request: Request) -> Response:
        await read(request, ClientConfigBody)
        return answer(_CLIENT_CONFIG | self._service.options.client_config)

    async def dynamic_config(self, request: Request) -> Response:
        await read(request, ClientConfigBody)
        return answer({"refresh_interval_sec": 300, "sample_cancel_enabled": False})

    async def create(self, request: Request) -> Response:
        body = await read(request, CreateSession)
        session = self._service.sessions.open(**body.model_dump())
        return answer(
            {
                "type": "create_session",
                "session_id": session.id,
                "info_message": None,
                "warning_message": None,
                "error_message": None,
            },
            201,
        )

    async def heartbeat(self, request: Request) -> Response:
        session = self._service.sessions.get((await read(request, Heartbeat)).session_id)
        if session.finished is not None:
            raise Refused(410, f"Session {session.id!r} was finished by its client ({session.finished})")
        self._service.touch_session(session.id)
        return answer({"type": "session_heartbeat"})

    async def telemetry(self, request: Request) -> Response:
        await read_body(request)
        return answer({"status": "accepted"})

    async def list(self, request: Request) -> Response:
        limit = query_number(request, "limit", 20)
        offset = query_number(request, "offset", 0)
        newest = sorted(self._service.sessions.records.values(), key=lambda s: (s.created_at, s.id), reverse=True)
        return answer({"sessions": [session.id for session in newest[offset : offset + limit]]})

    async def show(self, request: Request) -> Response:
        session_id = request.path_params["session_id"]
        session = self._service.sessions.get(session_id)
        shown: dict[str, Any] = {
            "training_run_ids": [r.id for r in self._service.runs.values() if r.session_id == session_id],
            "sampler_ids": [s.id for s in self._service.samplers.values() if s.session_id == session_id],
            "user_metadata": metadata_strings(session.user_metadata),
            "display_name": session.display_name,
            "project_id": session.project_id,
            "status": _status(session),
        }
        return answer(shown)

    async def finish(self, request: Request) -> Response:
        """Finish the session for good, which unloads its live models. A repetition changes nothing."""
        body = parse(await read_body(request) or b"{}", FinishSession)
        session_id = request.path_params["session_id"]
        self._service.sessions.finish(session_id, body.reason.type, body.detail)
        self._service.end_session(session_id)
        return Response(status_code=204)

    async def delete_sampler(self, request: Request) -> Response:
        """Delete a sampling session, which frees the weights saved for it alone: an addition of this server's."""
        self._service.delete_sampler(request.path_params["sampler_id"])
        return Response(status_code=204)

    async def sampler(self, request: Request) -> Response:
        sampler_id = request.path_params["sampler_id"]
        sampler = self._service.samplers.get(sampler_id)
        if sampler is None:
            raise Refused(404, f"Sampler {sampler_id!r} not found")
        if sampler.snapshot or sampler.inflight_of is not None:
            self._service.weights_of(sampler)
        return answer(
            {"sampler_id": sampler.id, "base_model": sampler.base_model, "model_path": sampler.model_path}
        )


def _status(session: SessionRecord) -> dict[str, object] | None:
    """The reason with which the client finished the session, in the service's form; None while it is open."""
    if session.finished is None:
        return None
    return {"type": "client_finished", "reason": {"type": session.finished}, "detail": session.finish_detail}


def _description(name: str) -> str:
    if name == "tiny-lm":
        return "a tiny byte-level model for development"
    return f"a stand-in for {name}: the architecture of tiny-lm with different base weights"
