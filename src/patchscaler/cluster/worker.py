"""One worker of a job: a copy of the networks, and pictures in memory that it makes results of, many at a time."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from patchscaler.cluster.batching import SharedExecutor, plan_chunks
from patchscaler.cluster.manifest import Row
from patchscaler.cluster.reading import Found
from patchscaler.cluster.retries import Retries, worker_name
from patchscaler.cluster.sinks import Result
from patchscaler.cluster.sources import stem_of
from patchscaler.engines.load import load_engine
from patchscaler.engines.process import work_alone
from patchscaler.errors import ImageReadError, PatchScalerError, reason
from patchscaler.imaging.files import FORMATS, check_format, read_picture, read_size
from patchscaler.imaging.tiles import patches_of
from patchscaler.options import Options
from patchscaler.stages.sizes import target_size
from patchscaler.upscaler import Result as Enlarged
from patchscaler.upscaler import Upscaler


@dataclass(frozen=True)
class Work:
    """What a job does with every picture, and one worker's means.

    model    bundled name, folder or hub id
    size     scale, width, height and max_side, as Upscaler takes them
    saving   quality, lossless and metadata of the results' files
    label    of the size, in results' names
    suffix   of results: ".png", ...; "same": the picture's own where it can be written
    device   of the networks
    threads  of the processor
    """

    model: str
    size: dict[str, Any]
    options: Options
    saving: dict[str, Any]
    label: str = "x4"
    suffix: str = ".png"
    device: str = "cpu"
    threads: int = 1

    def result_name(self, name: str) -> str:
        """The result's path in a folder, for the picture's name."""
        own = PurePosixPath(name).suffix.lower()
        suffix = (own if own in FORMATS else ".png") if self.suffix == "same" else self.suffix
        return f"{stem_of(name)}_{self.label}{suffix}"


class Worker:
    """Loads the model once, then enlarges batches of pictures. For a process of its own: it chooses light networks."""

    def __init__(self, work: Work, retries: Retries) -> None:
        work_alone()
        self.work, self.retries = work, retries
        engine = load_engine(work.model, device=work.device, threads=work.threads)
        self.executor = SharedExecutor(engine, overlap=work.threads > 1 or work.device != "cpu")
        self.upscaler = Upscaler(engine=engine, executor=self.executor)

    def __call__(self, pictures: Sequence[Found]) -> Iterator[Result]:
        """A result for each picture, as they are finished."""
        keys = [found.key for found in pictures]
        if not self.retries.begin(keys):
            yield from self._together(pictures)
        else:  # a worker has died of these, or among them: whose fault was it?
            for found in pictures:
                yield from self._alone(found)
        self.retries.end(keys)

    def _alone(self, found: Found) -> Iterator[Result]:
        try:
            self.retries.begin_alone(found.key)
        except PatchScalerError as error:
            found = found._replace(data=None, reason=f"{found.key}: {error}")
        yield from self._together([found])
        self.retries.end([found.key])

    def _together(self, pictures: Sequence[Found]) -> Iterator[Result]:
        with tempfile.TemporaryDirectory(prefix="patchscaler-") as folder:
            readable: list[tuple[Found, Path]] = []
            sizes: list[int] = []
            for number, found in enumerate(pictures):
                path = Path(folder) / f"{number}{PurePosixPath(found.name).suffix}"
                try:
                    sizes.append(self._patches(found, path))
                    readable.append((found, path))
                except PatchScalerError as error:
                    yield self._failed(found, path, error)
            for chunk in plan_chunks(sizes, self.executor.capacity):
                chosen = [readable[number] for number in chunk]
                tasks: list[Callable[[], Result]] = [partial(self._enlarge, *each) for each in chosen]
                for (found, path), outcome in zip(chosen, self.executor.run(tasks), strict=True):
                    yield self._failed(found, path, outcome) if isinstance(outcome, Exception) else outcome

    def _patches(self, found: Found, path: Path) -> int:
        """Puts the picture into a file; how many patches it has. Raises ImageReadError."""
        if found.data is None:
            raise ImageReadError(found.reason or "")
        path.write_bytes(found.data)
        model = self.executor.engine.model
        return patches_of(read_size(path), model.patch, model.overlap)

    def _enlarge(self, found: Found, path: Path) -> Result:
        options, name = self.work.options, self.work.result_name(found.name)
        if found.seed is not None:
            options = replace(options, seed=found.seed)
        with self.executor.reading():
            picture = read_picture(path)
        size = target_size(picture.size, **self.work.size)
        result = path.with_name(f"{path.stem}_result{PurePosixPath(name).suffix}")
        check_format(result, size)
        made = self.upscaler(picture, **self.work.size, options=options, file=result)
        with self.executor.aside(), made.report.stage("write"):
            made.save(result, **self.work.saving)
        data = result.read_bytes()
        made.clear()
        result.unlink()
        return Result(self._row(found, name, data, made), data, found.sample, found.fields)

    def _row(self, found: Found, name: str, data: bytes, made: Enlarged) -> Row:
        report, before, after = made.report, made.source.size, made.size
        row = Row(
            key=found.key,
            status="done",
            result=name,
            source_sha256=hashlib.sha256(found.data or b"").hexdigest(),
            result_sha256=hashlib.sha256(data).hexdigest(),
            result_bytes=len(data),
            height=before.height,
            width=before.width,
            result_height=after.height,
            result_width=after.width,
            seconds=round(made.seconds, 4),
            worker=worker_name(),
            seed=report.seed,
        )
        counts = {f"patches_{group}": count for group, count in report.patches.items()}
        steps = {f"steps_{group}": count for group, count in report.steps.items()}
        return row._replace(**counts, **steps)  # type: ignore[arg-type]

    def _failed(self, found: Found, path: Path, error: Exception) -> Result:
        """Raises the error itself where it is no picture's fault."""
        words = reason(found.key, error)
        if words is None:
            raise error
        words = words.replace(str(path), found.key)
        digest = hashlib.sha256(found.data).hexdigest() if found.data is not None else ""
        return Result(Row(found.key, "failed", words, source_sha256=digest, worker=worker_name()), None)


def name_clashes(work: Work, pictures: Iterable[tuple[str, str]]) -> tuple[str, str, str] | None:
    """The first result that two pictures, given as (key, name), would both be written to, and their keys."""
    makers: dict[str, str] = {}
    for key, name in pictures:
        result = work.result_name(name)
        if result in makers:
            return result, makers[result], key
        makers[result] = key
    return None
