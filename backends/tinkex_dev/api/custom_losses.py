"""The route that stores a traced loss in a session."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.service.promises import Plain
from backends.tinkex_dev.service.service import Service, digest_of_body
from backends.tinkex_dev.wire.exchange import answer, read
from backends.tinkex_dev.wire.requests import CreateCustomLoss
from backends.tiny_lm.traced_loss import GraphError, GraphNode, TracedLoss


class CustomLossRoutes:
    """create_custom_loss."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [Route("/create_custom_loss", self.create, methods=["POST"])]

    async def create(self, request: Request) -> Response:
        body = await read(request, CreateCustomLoss)
        service = self._service
        session_id = service.touch_session(body.session_id).id
        loss_id = f"{session_id}:loss:{body.custom_loss_seq_id}"
        digest = digest_of_body("create_custom_loss", body.model_dump())
        if not service.custom_losses.is_stored(loss_id, digest):
            nodes = [GraphNode(**node.model_dump()) for node in body.graph.nodes]
            try:
                loss = TracedLoss({one.name: one.rank for one in body.inputs}, nodes)
            except GraphError as error:
                raise InvalidField.at(("graph",), str(error)) from None
            service.custom_losses.store(loss_id, digest, loss)
        promise = service.promises.create("create_custom_loss")
        service.promises.resolve(promise, Plain({"type": "create_custom_loss", "loss_id": loss_id}))
        return answer(promise.receipt())
