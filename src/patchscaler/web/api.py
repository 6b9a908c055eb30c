"""The HTTP API: POST a picture and get a job; poll it or stream its progress; get the result; delete it.

The body of the POST is the picture itself. No file name and no path comes from a client, so none can be misused.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from patchscaler import __version__
from patchscaler.web.guard import Guard
from patchscaler.web.jobs import FINISHED, Job, JobQueue, QueueFullError, State
from patchscaler.web.settings import LARGEST_SCALE, MEDIA_TYPES, STEPS, Format, Limits, Options, Quality
from patchscaler.web.uploads import check, receive
from patchscaler.web.work import Worker

if TYPE_CHECKING:
    from patchscaler.pipeline import PatchScalerPipeline

LOOK_SECONDS = 0.2  # between two looks at a job whose progress is streamed
QUIET_SECONDS = 15.0  # after which a stream says that it is alive
DESCRIPTION = """Enlarges pictures, up to x4. `POST /api/jobs` with the picture as the body answers with a job at once;
then poll `GET /api/jobs/{id}` or read the server-sent events of `GET /api/jobs/{id}/events`, and get
`/api/jobs/{id}/result`. Jobs are deleted some minutes after they are finished, or by `DELETE /api/jobs/{id}`.
Errors are `{"detail": "one line"}`."""


class PixelSize(BaseModel):
    height: int
    width: int


class JobStatus(BaseModel):
    """Where a job stands. It is finished when its state is done, failed or cancelled."""

    id: str
    state: State
    ahead: int = Field(description="jobs before this one, while it is queued")
    stage: str = Field(description="restore, prompt, sample, decode, colour or write, while it is running")
    progress: float = Field(ge=0, le=1)
    seconds: float = Field(description="that the job has run")
    seconds_left: float | None = Field(description="until it is done, about; null where nothing is known yet")
    preview: int = Field(description="number of the newest preview; 0: none yet")
    patches: dict[str, int] | None = Field(description="how many patches are simple, medium and hard")
    error: str | None = Field(description="why it failed")
    expires_in: float | None = Field(description="seconds until a finished job is deleted")
    quality: Quality
    seed: int
    format: Format
    scale: float
    input: PixelSize
    output: PixelSize


class PatchMap(BaseModel):
    """Which patches are simple, medium and hard."""

    names: list[str]
    colours: list[str]
    counts: list[int]
    groups: list[int] = Field(description="of every patch, an index into names")
    boxes: list[tuple[int, int, int, int]] = Field(description="top, left, height, width of every patch, output pixels")


class About(BaseModel):
    """What this server is and allows."""

    version: str
    scale: int = Field(description="the largest")
    steps: dict[Quality, tuple[int, int, int]]
    formats: list[Format]
    max_bytes: int
    max_pixels: int
    queue: int
    keep_seconds: float
    unfinished: int = Field(description="jobs arriving, waiting and running")


class Problem(BaseModel):
    detail: str


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem} for code in codes}


PICTURE = {
    "requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
}
SMALL = {200: {"content": {"image/webp": {}}}, **problems(404)}
NOT_STORED = {"Cache-Control": "no-store"}


def create_app(pipe: "PatchScalerPipeline", limits: Limits, *, workers: int = 1, loopback: bool = True) -> FastAPI:
    """The API on top of one loaded pipeline. `loopback`: refuse requests that name another host than this computer.

    Its lifespan owns the job queue: when the server stops, jobs stop and all files are removed.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.queue = JobQueue(Worker(pipe, limits), limits, workers)
        app.state.checking = anyio.CapacityLimiter(1)  # one decoded picture in memory at a time
        yield
        await run_sync(app.state.queue.close)

    app = FastAPI(
        title="PatchScaler",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guard, loopback=loopback)
    app.add_exception_handler(RequestValidationError, _explain)
    _add_jobs(app, limits)
    app.mount("/page", StaticFiles(directory=str(files("patchscaler.web") / "static")))
    return app


def find_job(name: str, request: Request) -> Job:
    try:
        return _queue(request).find(name)
    except KeyError:
        raise HTTPException(404, "no such job; it may have been deleted or its time may be over") from None


Found = Annotated[Job, Depends(find_job)]


def _add_jobs(app: FastAPI, limits: Limits) -> None:
    @app.get("/api/about")
    async def about(request: Request) -> About:
        """Version, limits and choices."""
        return About(
            version=__version__,
            scale=LARGEST_SCALE,
            steps=STEPS,
            formats=list(Format),
            unfinished=_queue(request).unfinished(),
            **{name: getattr(limits, name) for name in ("max_bytes", "max_pixels", "queue", "keep_seconds")},
        )

    @app.post(
        "/api/jobs", status_code=202, responses=problems(400, 403, 408, 413, 415, 422, 503), openapi_extra=PICTURE
    )
    async def create(
        request: Request,
        response: Response,
        quality: Quality = Quality.balanced,
        seed: Annotated[int, Query(ge=0, lt=2**63, description="same seed, same result")] = 0,
        format: Annotated[Format, Query(description="of the result")] = Format.png,
        scale: Annotated[float, Query(ge=1, le=LARGEST_SCALE, description="1: restore only")] = LARGEST_SCALE,
    ) -> JobStatus:
        """Enlarge the picture in the body."""
        queue = _queue(request)
        try:
            job = queue.admit(Options(quality, seed, format, scale))
        except QueueFullError as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "10"}) from None
        try:
            await receive(request, job.input, limits)
            await run_sync(check, job, limits, limiter=request.app.state.checking)
        except BaseException:  # also where the client has gone and this task is cancelled
            queue.remove(job)
            raise
        queue.submit(job)
        response.headers["Location"] = f"/api/jobs/{job.id}"
        return _status(queue, job)

    @app.get("/api/jobs/{name}", responses=problems(404))
    async def status(request: Request, job: Found) -> JobStatus:
        """Where a job stands."""
        return _status(_queue(request), job)

    @app.delete("/api/jobs/{name}", status_code=204, responses=problems(403, 404))
    async def delete(request: Request, job: Found) -> None:
        """Cancel a job and remove all of its files."""
        await run_sync(_queue(request).remove, job)

    @app.get(
        "/api/jobs/{name}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **problems(404)},
    )
    async def events(request: Request, job: Found) -> StreamingResponse:
        """Server-sent events, each a JobStatus, until the job is finished."""
        headers = NOT_STORED | {"X-Accel-Buffering": "no"}
        return StreamingResponse(_follow(_queue(request), job), media_type="text/event-stream", headers=headers)

    @app.get("/api/jobs/{name}/map", responses=problems(404))
    async def patch_map(job: Found) -> PatchMap:
        """Groups and boxes of the patches, known once the restoration is through."""
        if job.patches is None:
            raise HTTPException(404, "not known yet; wait until the stage is prompt or sample")
        return PatchMap(**job.patches)

    @app.get("/api/jobs/{name}/preview", response_class=Response, responses=SMALL)
    def preview(job: Found) -> Response:
        """The newest preview: a WebP of at most 1280 pixels a side, 2048 when the job is done."""
        return _small(job.preview_file, "no preview yet")

    @app.get("/api/jobs/{name}/input", response_class=Response, responses=SMALL)
    def source(job: Found) -> Response:
        """The picture that came in, as a WebP of at most 1280 pixels a side."""
        return _small(job.thumbnail, "no longer there")

    @app.get("/api/jobs/{name}/result", response_class=FileResponse, responses=problems(404, 409))
    async def result(
        job: Found,
        save_as: Annotated[str, Query(max_length=200, description="name to be saved under, without its end")] = "",
    ) -> FileResponse:
        """The enlarged picture, byte for byte what the command line writes for the same picture, steps and seed."""
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


def _status(queue: JobQueue, job: Job) -> JobStatus:
    state, now, size = job.state, time.monotonic(), job.input_size
    left, output = queue.seconds_left(job), job.output_size
    patches = job.patches and dict(zip(job.patches["names"], job.patches["counts"], strict=True))
    keep = queue.limits.keep_seconds
    return JobStatus(
        id=job.id,
        state=state,
        ahead=queue.ahead(job),
        stage=job.stage if state is State.running else "",
        progress=round(job.fraction, 4),
        seconds=round((job.finished or now) - job.started, 2) if job.started else 0.0,
        seconds_left=None if left is None else round(left, 1),
        preview=job.preview,
        patches=patches,
        error=job.error,
        expires_in=round(max(keep - (now - job.finished), 0.0), 1) if state in FINISHED and job.finished else None,
        quality=job.options.quality,
        seed=job.options.seed,
        format=job.options.format,
        scale=job.options.scale,
        input=PixelSize(height=size.height, width=size.width),
        output=PixelSize(height=output.height, width=output.width),
    )


async def _follow(queue: JobQueue, job: Job) -> AsyncIterator[str]:
    """The job's states as server-sent events, whenever something has changed."""
    last, said = None, 0.0
    while not queue.closing.is_set():
        status = _status(queue, job)
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


def _small(path: Path, missing: str) -> Response:
    """Read at once, because the next preview may replace it at any time."""
    try:
        return Response(path.read_bytes(), media_type="image/webp", headers=NOT_STORED)
    except FileNotFoundError:
        raise HTTPException(404, missing) from None


async def _explain(request: Request, error: Exception) -> JSONResponse:
    """One line for arguments that are missing or wrong."""
    assert isinstance(error, RequestValidationError)
    lines = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
    return JSONResponse({"detail": "; ".join(lines)}, status_code=422)
