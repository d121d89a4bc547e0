"""The HTTP routes: each checks its form, calls one function of the job queue and names the status.

Every answer that is not a success has the body {"error": Failure}. docs/protocol.md shows the routes from outside.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from backend import __version__
from backend.catalog.catalog import model_source, models_folder
from backend.catalog.installs import Installs
from backend.contract import PROTOCOL
from backend.contract.errors import Failure, MaquetteError
from backend.contract.messages import SHA256, Health, JobRequest, JobSummary, MessageError, from_json, to_json
from backend.jobs.failures import failure_from
from backend.jobs.job_queue import JobConflict, JobQueue
from backend.server.auth import Gate, HttpFailure, error_body
from backend.server.blobs import receive_blob, send_blob
from backend.server.events import EventHub
from backend.server.models import add_model_routes
from backend.server.settings import Settings

logger = logging.getLogger(__name__)

STATUS_OF_CODE = {"bad_input": 422, "disk_full": 507, "licence_required": 409}
"""HTTP status of a failure; the codes not named here are our own trouble, 500."""

LAST_SEQUENCE = 2**63 - 1
"""The largest number SQLite can compare with."""


def create_app(settings: Settings, queue: JobQueue, stop: Callable[[], None]) -> FastAPI:
    """The application over `queue`; `stop` begins the shutdown of the process."""
    hub = EventHub(queue.journal)
    started = time.time()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        hub.open()
        yield

    app = FastAPI(
        title="Maquette", version=__version__, lifespan=lifespan, redirect_slashes=False,
        openapi_url="/openapi.json" if settings.docs else None, docs_url="/docs" if settings.docs else None,
        redoc_url=None,
    )  # fmt: skip
    app.state.hub = hub
    app.add_middleware(Gate, settings=settings)
    _add_error_handlers(app)
    _add_blob_routes(app, queue)
    _add_job_routes(app, queue, hub)
    add_model_routes(app, Installs(models_folder(), model_source(), failure_from), lambda: hub.closed)

    @app.get("/health")
    def health() -> Response:
        journal, executor = queue.journal, queue.executors[0]
        return answer(Health(
            PROTOCOL, __version__, os.getpid(), executor.device, executor.health(), journal.count("queued"),
            journal.count("running"), time.time() - started,
        ))  # fmt: skip

    @app.get("/systems")
    def systems() -> Response:
        return JSONResponse({"systems": [to_json(info) for info in queue.systems()]})

    @app.get("/events")
    async def all_events(after: int = Query(0, ge=0, le=LAST_SEQUENCE)) -> Response:
        return event_stream(hub.stream(after))

    @app.post("/shutdown")
    async def shutdown() -> Response:
        stop()
        return JSONResponse({"stopping": True}, 202)

    return app


def _add_blob_routes(app: FastAPI, queue: JobQueue) -> None:
    blobs = queue.blobs

    @app.put("/blobs/{sha256}")
    async def put_blob(sha256: str, request: Request) -> Response:
        created = await receive_blob(blobs, sha256, request)
        return JSONResponse({"sha256": sha256}, 201 if created else 200)

    @app.api_route("/blobs/{sha256}", methods=["GET", "HEAD"])
    async def get_blob(sha256: str, request: Request) -> Response:
        if not SHA256.fullmatch(sha256) or not blobs.exists(sha256):
            raise unknown("blob")
        path = blobs.path(sha256)
        headers = {"content-length": str(path.stat().st_size), "cache-control": "no-store"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="application/octet-stream")
        return StreamingResponse(send_blob(path), headers=headers, media_type="application/octet-stream")


def _add_job_routes(app: FastAPI, queue: JobQueue, hub: EventHub) -> None:
    @app.post("/jobs")
    async def submit(request: Request) -> Response:
        job = parse_job(await request.body())
        summary, created = await run_in_threadpool(queue.submit, job)
        return answer(summary, 201 if created else 200)

    @app.get("/jobs")
    def jobs() -> Response:
        return JSONResponse({"jobs": [to_json(summary) for summary in queue.journal.summaries()]})

    @app.get("/jobs/{job_id}")
    def job(job_id: str) -> Response:
        return answer(found(queue.summary, job_id))

    @app.delete("/jobs/{job_id}")
    def cancel_or_forget(job_id: str, forget: bool = False) -> Response:
        if forget:
            found(queue.forget, job_id)
            return Response(status_code=204)
        return answer(found(queue.cancel, job_id))

    @app.post("/jobs/{job_id}/applied")
    def applied(job_id: str) -> Response:
        return answer(found(queue.mark_applied, job_id))

    @app.get("/jobs/{job_id}/events")
    async def job_events(job_id: str, after: int = Query(0, ge=0, le=LAST_SEQUENCE)) -> Response:
        await run_in_threadpool(found, queue.summary, job_id)
        return event_stream(hub.stream(after, job_id))


def parse_job(body: bytes) -> JobRequest:
    """The request in `body`. Errors: `MessageError` for anything else, including numbers that JSON cannot carry."""
    try:
        data = json.loads(body)
        json.dumps(data, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"The body is not plain JSON ({error})") from error
    return from_json(JobRequest, data)


def found(action: Callable[[str], Any], job_id: str) -> Any:
    """`action(job_id)`. Errors: `HttpFailure` 404 when the job is unknown."""
    try:
        return action(job_id)
    except KeyError:
        raise unknown("job") from None


def unknown(kind: str) -> HttpFailure:
    """The 404 for a job or a blob."""
    return HttpFailure(404, Failure("bad_input", f"There is no such {kind}. Refresh the list."))


def answer(message: Health | JobSummary, status: int = 200) -> Response:
    """A contract message as a response."""
    return JSONResponse(to_json(message), status)


def event_stream(events: AsyncIterator[bytes]) -> Response:
    """Server-sent events as a response."""
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


def _add_error_handlers(app: FastAPI) -> None:
    """The route border: every exception becomes a status and a failure."""

    def respond(status: int, failure: Failure, close: bool = False) -> Response:
        headers = {"connection": "close"} if close else None
        return Response(error_body(failure), status, headers, "application/json")

    @app.exception_handler(HttpFailure)
    async def known(request: Request, error: HttpFailure) -> Response:
        return respond(error.status, error.failure, close=True)

    @app.exception_handler(JobConflict)
    async def conflict(request: Request, error: JobConflict) -> Response:
        return respond(409, error.failure)

    @app.exception_handler(MaquetteError)
    async def explained(request: Request, error: MaquetteError) -> Response:
        return respond(STATUS_OF_CODE.get(error.code, 500), error.failure)

    @app.exception_handler(MessageError)
    async def malformed(request: Request, error: MessageError) -> Response:
        return respond(422, Failure("bad_input", "The request does not have the agreed form.", str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return respond(422, Failure("bad_input", "The request does not have the agreed form.", str(error.errors())))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return respond(error.status_code, Failure("bad_input", "There is no such route or method.", error.detail))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return respond(400, Failure("bad_input", "The upload was not finished. Send it again."), close=True)

    @app.exception_handler(Exception)
    @app.exception_handler(OSError)
    async def unexpected(request: Request, error: Exception) -> Response:
        failure = failure_from(error)
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return respond(STATUS_OF_CODE.get(failure.code, 500), failure, close=True)
