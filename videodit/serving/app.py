"""The web process: an ASGI application, and the workers that live as long as it does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Response

import videodit
from videodit.files import FolderLock
from videodit.serving import actions, catalogue, content, events, recipes, videos
from videodit.serving.config import ServerConfig
from videodit.serving.errors import answer_errors
from videodit.serving.folder import DataFolder
from videodit.serving.metrics import CONTENT_TYPE, exposition, make_registry
from videodit.serving.state import ServerState
from videodit.serving.store import JobStore
from videodit.serving.supervisor import Supervisor


def create_app(config: ServerConfig, *, workers: bool = True) -> FastAPI:
    """The application of a server.

    Args:
        config: of the server.
        workers: start workers on this machine.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        data = DataFolder(config.data)
        with contextlib.closing(FolderLock(config.data)):
            data.prepare()
            with contextlib.closing(JobStore(data.jobs_file)) as store:
                app.state.server = ServerState(config, data, store)
                hub = app.state.server.hub
                app.state.registry = make_registry(app.state.server)
                store.put_back_all()
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
    for router in (videos.router, content.router, actions.router, events.router, catalogue.router, recipes.router):
        app.include_router(router)

    @app.get("/health")
    async def health() -> Any:
        """The web process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready(response: Response) -> Any:
        """Jobs are taken: every model is known."""
        known = app.state.server.store.cards()
        missing = [name for name in config.models if name not in known]
        response.status_code = 503 if missing else 200
        return {"ready": not missing, "missing": missing}

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(exposition(app.state.registry), media_type=CONTENT_TYPE)

    return app
