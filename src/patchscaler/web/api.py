"""The HTTP API: POST a picture and get a job; poll it or stream its progress; get the result; delete it.

The body of the POST is the picture itself. No file name and no path comes from a client, so none can be misused.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from patchscaler import __version__
from patchscaler.web.describe import (
    CREATED,
    DESCRIPTION,
    EVENTS,
    FULL,
    PICTURE,
    RESULT,
    WEBP,
    describe,
    problems,
)  # fmt: skip
from patchscaler.web.guard import Guard
from patchscaler.web.jobs import FINISHED, Job, JobQueue, QueueFullError, State
from patchscaler.web.methods import Methods
from patchscaler.web.schemas import About, JobStatus, PatchMap, status_of
from patchscaler.web.settings import LARGEST_SCALE, MEDIA_TYPES, STEPS, Format, Limits, Options
from patchscaler.web.uploads import Uploads, check, known_formats
from patchscaler.web.work import Worker

if TYPE_CHECKING:
    from patchscaler.upscaler import Upscaler

LOOK_SECONDS = 0.2  # between two looks at a job whose progress is streamed
QUIET_SECONDS = 15.0  # after which a stream says that it is alive
NOT_STORED = {"Cache-Control": "no-store"}


def create_app(upscaler: "Upscaler", limits: Limits, *, workers: int = 1, loopback: bool = True) -> FastAPI:
    """The API on top of one loaded model. `loopback`: refuse requests that name another host than this computer.

    Its lifespan owns the job queue: when the server stops, jobs stop and all files are removed. `state.stop`, which a
    signal handler may call, ends jobs, streams and uploads before that.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        queue, uploads = JobQueue(Worker(upscaler, limits), limits, workers), Uploads(limits)

        def stop() -> None:
            queue.closing.set()
            loop.call_soon_threadsafe(uploads.stop)

        app.state.queue, app.state.uploads, app.state.stop = queue, uploads, stop
        app.state.checking = anyio.CapacityLimiter(1)  # one decoded picture in memory at a time
        yield
        await run_sync(queue.close)

    app = FastAPI(
        title="PatchScaler",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=problems(403),
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(Methods, router=app.router)
    app.add_middleware(Guard, loopback=loopback)
    app.add_exception_handler(RequestValidationError, _explain)
    _add_jobs(app, limits, workers)
    _add_files(app)
    describe(app)
    return app


def find_job(id: str, request: Request) -> Job:
    try:
        return _queue(request).find(id)
    except KeyError:
        raise HTTPException(404, "no such job; it may have been deleted or its time may be over") from None


Found = Annotated[Job, Depends(find_job)]


def _add_jobs(app: FastAPI, limits: Limits, workers: int) -> None:
    @app.get("/api/about")
    async def about(request: Request) -> About:
        """Version, limits and choices."""
        return About(
            version=__version__,
            scale=LARGEST_SCALE,
            steps={quality: list(steps) for quality, steps in STEPS.items()},
            formats=list(Format),
            reads=known_formats(),
            workers=workers,
            unfinished=_queue(request).unfinished(),
            **{name: getattr(limits, name) for name in ("max_bytes", "max_pixels", "queue", "keep_seconds")},
        )

    refusals = problems(400, 408, 413, 415, 422) | FULL

    @app.post("/api/jobs", status_code=202, responses=CREATED | refusals, openapi_extra=PICTURE)
    async def create_job(request: Request, response: Response, options: Annotated[Options, Query()]) -> JobStatus:
        """Enlarge the picture in the body."""
        queue = _queue(request)
        try:
            job = queue.admit(options)
        except QueueFullError as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "10"}) from None
        try:
            await request.app.state.uploads.receive(request, job.input)
            await request.is_disconnected()  # after a long body uvicorn reads on, to the client's end, only when asked
            await run_sync(check, job, limits, limiter=request.app.state.checking)
            if await request.is_disconnected():  # nobody will learn the job's name
                raise HTTPException(400, "the upload was broken off")
        except BaseException:  # also where the client has gone and this task is cancelled
            queue.remove(job)
            raise
        queue.submit(job)
        response.headers["Location"] = f"/api/jobs/{job.id}"
        return status_of(queue, job)

    @app.get("/api/jobs/{id}", responses=problems(404))
    async def get_job(request: Request, job: Found) -> JobStatus:
        """Where a job stands."""
        return status_of(_queue(request), job)

    @app.delete("/api/jobs/{id}", status_code=204, responses=problems(404))
    async def delete_job(request: Request, job: Found) -> None:
        """Cancel a job and remove all of its files."""
        await run_sync(_queue(request).remove, job)

    @app.get("/api/jobs/{id}/events", response_class=StreamingResponse, responses=EVENTS | problems(404))
    async def follow_job(request: Request, job: Found) -> StreamingResponse:
        """Server-sent events, each a JobStatus, until the job is finished."""
        headers = NOT_STORED | {"X-Accel-Buffering": "no"}
        return StreamingResponse(_follow(_queue(request), job), media_type="text/event-stream", headers=headers)

    @app.get("/api/jobs/{id}/map", responses=problems(404, 409))
    async def get_map(job: Found) -> PatchMap:
        """Groups and boxes of the patches, known once the restoration is through."""
        if job.patches is None:
            raise HTTPException(409, "not known yet; wait until the stage is prompt or sample")
        return PatchMap(**job.patches)


def _add_files(app: FastAPI) -> None:
    @app.get("/api/jobs/{id}/preview", response_class=Response, responses=WEBP | problems(404, 409))
    def get_preview(job: Found) -> Response:
        """The newest preview: a WebP of at most 1280 pixels a side, 2048 when the job is done."""
        return _small(job.preview_file, 409, "no preview yet")

    @app.get("/api/jobs/{id}/input", response_class=Response, responses=WEBP | problems(404))
    def get_input(job: Found) -> Response:
        """The picture that came in, as a WebP of at most 1280 pixels a side."""
        return _small(job.thumbnail, 404, "no longer there")

    @app.get("/api/jobs/{id}/result", response_class=FileResponse, responses=RESULT | problems(404, 409, 422))
    async def get_result(
        job: Found,
        save_as: Annotated[str, Query(max_length=200, description="name to be saved under, without its end")] = "",
    ) -> FileResponse:
        """The enlarged picture, byte for byte what the command line writes for the same picture and options."""
        if job.state is not State.done:
            reason = job.error or "look at its state, and come back when that is done"
            raise HTTPException(409, f"the job is {job.state.value}: {reason}")
        suffix = job.options.format
        if not job.result.is_file():
            raise HTTPException(404, "no longer there")
        # Only told to the browser, whose `download` attribute yields to it.
        stem = "".join(c for c in save_as if c.isprintable() and c not in '/\\:*?"<>|').strip(". ") or "picture"
        filename = f"{stem}_x{job.options.scale:g}.{suffix.value}"
        return FileResponse(job.result, media_type=MEDIA_TYPES[suffix], filename=filename, headers=NOT_STORED)


def _queue(request: Request) -> JobQueue:
    return request.app.state.queue


async def _follow(queue: JobQueue, job: Job) -> AsyncIterator[str]:
    """The job's states as server-sent events, whenever something has changed."""
    last, said = None, 0.0
    while not queue.closing.is_set():
        status = status_of(queue, job)
        mark = (status.state, status.ahead, status.stage, status.progress, status.preview, bool(status.patches))
        if mark != last:
            yield f"event: status\ndata: {status.model_dump_json()}\n\n"
            last, said = mark, time.monotonic()
        elif time.monotonic() - said > QUIET_SECONDS:
            yield ": still here\n\n"
            said = time.monotonic()
        if status.state in FINISHED:
            return
        await anyio.sleep(LOOK_SECONDS)


def _small(path: Path, code: int, missing: str) -> Response:
    """Read at once, because the next preview may replace it at any time."""
    try:
        return Response(path.read_bytes(), media_type="image/webp", headers=NOT_STORED)
    except FileNotFoundError:
        raise HTTPException(code, missing) from None


async def _explain(request: Request, error: Exception) -> JSONResponse:
    """One line for arguments that are missing or wrong."""
    assert isinstance(error, RequestValidationError)
    lines = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
    return JSONResponse({"detail": "; ".join(lines)}, status_code=422)
