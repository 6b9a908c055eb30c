"""What the API answers."""

import time
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from patchscaler.web.jobs import FINISHED, Job, JobQueue, State
from patchscaler.web.settings import Format, Options, Quality

# Lists of fixed length, because generators of clients make little of tuples.
Box = Annotated[list[int], Field(min_length=4, max_length=4)]
Steps = Annotated[list[int], Field(min_length=3, max_length=3)]


class PixelSize(BaseModel):
    height: int
    width: int


class JobStatus(Options):
    """Where a job stands. It is finished when its state is done, failed or cancelled."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

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
    input: PixelSize
    output: PixelSize


class PatchMap(BaseModel):
    """Which patches are simple, medium and hard."""

    names: list[str]
    colours: list[str]
    counts: list[int]
    groups: list[int] = Field(description="of every patch, an index into names")
    boxes: list[Box] = Field(description="top, left, height, width of every patch, output pixels")


class About(BaseModel):
    """What this server is and allows."""

    version: str
    scale: int = Field(description="the largest")
    steps: dict[Quality, Steps] = Field(description="of simple, medium and hard patches")
    formats: list[Format]
    reads: list[str] = Field(description="formats of pictures that may come in")
    max_bytes: int
    max_pixels: int
    queue: int
    workers: int = Field(description="pictures enlarged at the same time")
    keep_seconds: float
    unfinished: int = Field(description="jobs arriving, waiting and running")


class Problem(BaseModel):
    detail: str


def status_of(queue: JobQueue, job: Job) -> JobStatus:
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
        input=PixelSize(height=size.height, width=size.width),
        output=PixelSize(height=output.height, width=output.width),
        **job.options.model_dump(),
    )
