"""The routes for what can be installed: the catalogue with its state, install, cancel, progress.

Importing from a folder is a command (`python -m backend models import`): no paths travel over the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from backend.catalog.catalog import CatalogModel, find_model
from backend.catalog.installs import Installs
from backend.contract.errors import Failure, MaquetteError
from backend.contract.messages import MessageError, from_json, to_json
from backend.contract.models import InstallRequest, ModelInfo
from backend.server.auth import HttpFailure

LOOK_SECONDS = 0.5  # a stopping server waits for no thread longer than this
QUIET_LOOKS = 10  # 5 s of silence, as in the event streams of jobs


def add_model_routes(app: FastAPI, installs: Installs, stopped: Callable[[], bool]) -> None:
    """Add the routes over `installs`; streams end once `stopped`."""

    @app.get("/models")
    async def models() -> Response:
        listing = await run_in_threadpool(installs.models)
        return JSONResponse({"models": [to_json(info) for info in listing]})

    @app.get("/models/{model_id}")
    async def model(model_id: str) -> Response:
        return _answer(await run_in_threadpool(installs.info, _known(model_id)))

    @app.post("/models/{model_id}/install")
    async def install(model_id: str, request: Request) -> Response:
        _known(model_id)
        wanted = from_json(InstallRequest, await _body(request))
        info = await run_in_threadpool(installs.install, model_id, wanted.licences, wanted.everything)
        return _answer(info, 202)

    @app.delete("/models/{model_id}/install")
    async def cancel(model_id: str) -> Response:
        _known(model_id)
        return _answer(installs.cancel(model_id))

    @app.delete("/models/{model_id}")
    async def remove(model_id: str) -> Response:
        _known(model_id)
        return _answer(await run_in_threadpool(installs.remove, model_id))

    @app.get("/models/{model_id}/events")
    async def events(model_id: str) -> Response:
        stream = _stream(installs, _known(model_id), stopped)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _stream(installs: Installs, model: CatalogModel, stopped: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The model's state as server-sent events, one a change, until its install has ended."""
    revision, sent, quiet = -1, b"", 0
    while not stopped():
        info = await run_in_threadpool(installs.info, model)
        event = f"data: {json.dumps(to_json(info))}\n\n".encode()
        if event != sent:
            yield event
            sent, quiet = event, 0
        if info.state != "installing":
            return
        revision = await run_in_threadpool(installs.wait, revision, LOOK_SECONDS)
        quiet += 1
        if quiet % QUIET_LOOKS == 0:
            yield b": still here\n\n"


def _known(model_id: str) -> CatalogModel:
    try:
        return find_model(model_id)
    except MaquetteError as error:
        raise HttpFailure(404, Failure("bad_input", f"{error} Refresh the list.")) from error


async def _body(request: Request) -> object:
    try:
        return json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError) as error:
        raise MessageError(f"The body is not plain JSON ({error})") from error


def _answer(info: ModelInfo, status: int = 200) -> Response:
    return JSONResponse(to_json(info), status)
