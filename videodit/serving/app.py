"""The web process: an ASGI application, and the workers that live as long as it does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Response

import videodit
from videodit.serving import (
    actions,
    catalogue,
    content,
    events,
    files,
    login,
    pages,
    recipes,
    system,
    videos,
    workers_api,
)
from videodit.serving.config import ServerConfig
from videodit.serving.errors import answer_errors
from videodit.serving.folder import DataFolder
from videodit.serving.gate import Gate
from videodit.serving.metrics import CONTENT_TYPE, exposition, make_registry
from videodit.serving.state import ServerState
from videodit.serving.store import JobStore
from videodit.serving.supervisor import Supervisor, put_back_all
from videodit.serving.writer import Writer


def create_app(config: ServerConfig, *, data: DataFolder | None = None, workers: bool = True) -> FastAPI:
    """The application of a server.

    Args:
        config: of the server.
        data: its folder, if the caller holds it already.
        workers: start workers on this machine.
    """
    data = DataFolder(config.data, config.database, config.outputs) if data is None else data

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with (
            data.held(),
            contextlib.closing(JobStore(data.jobs_file, durable=True)) as store,
            contextlib.closing(Writer(data.jobs_file)) as write,
            contextlib.closing(Writer(data.jobs_file, "searcher")) as search,
        ):
            app.state.server = ServerState(config, data, store, write, search)
            hub = app.state.server.hub
            app.state.registry = make_registry(app.state.server)
            if not data.is_shared:
                if config.worker_key is None:  # else they may live on, and their signs of life decide
                    put_back_all(store)  # no worker of an earlier server is left
                    for name in store.workers():
                        store.set_worker(name, None)
                store.refuse_others(list(config.models))
            supervisor = Supervisor(config, data)
            if workers:
                supervisor.start()
            app.state.supervisor = supervisor
            try:
                yield
            finally:
                await hub.close()
                if workers:
                    supervisor.stop()

    app = FastAPI(title="videodit", version=videodit.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    answer_errors(app)
    app.add_middleware(Gate, config=config)
    routers = (login, files, videos, content, actions, events, catalogue, recipes, system, pages)
    for router in (module.router for module in routers):
        app.include_router(router)
    if config.worker_key is not None:
        app.include_router(workers_api.router)

    @app.get("/health")
    async def health() -> Any:
        """The web process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready(response: Response) -> Any:
        """Jobs are taken: every model is known, and there is a worker that starts or works.

        Beside that it says what is wrong with models and workers.
        """
        store, places = app.state.server.store, app.state.supervisor.report
        known = store.cards()
        missing = [name for name in config.models if name not in known]
        own = workers and config.devices  # else they are elsewhere
        is_ready = not missing and (not own or any(place["state"] != "failing" for place in places))
        response.status_code = 200 if is_ready else 503
        problems = {name: said for name, said in store.problems().items() if name in config.models}
        return {"ready": is_ready, "missing": missing, "problems": problems, "workers": places, "full": data.full}

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(exposition(app.state.registry), media_type=CONTENT_TYPE)

    return app
