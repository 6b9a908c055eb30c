"""Which pictures a call means, and what their results are called."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from patchscaler.cli.naming import Naming, Source
from patchscaler.errors import ConfigError, ImageReadError, ImageWriteError

MOST_KINDS = 6  # of files left out, that are named


class Frames(str, Enum):
    """What to do with animations and files of several pages; `all`: an animation becomes one again."""

    refuse = "refuse"
    first = "first"
    each = "each"
    all = "all"


class Target(NamedTuple):
    """What -o, --qmap or --report names: one file, or a folder with a file for each picture."""

    path: Path
    is_folder: bool

    def file(self, source: Source, name: str) -> Path:
        return self.path / source.subfolder / name if self.is_folder else self.path


class Targets(NamedTuple):
    """None: no such file, but of results, which then lie beside their pictures."""

    result: Target | None = None
    qmap: Target | None = None
    report: Target | None = None

    @property
    def folders(self) -> list[Path]:
        return [wanted.path for wanted in self if wanted is not None and wanted.is_folder]


@dataclass(frozen=True)
class Job:
    """One picture and the files to be made of it; `named`: those whose names the user gave."""

    source: Source
    result: Path
    qmap: Path | None
    report: Path | None
    named: frozenset[Path] = frozenset()

    @property
    def outputs(self) -> list[Path]:
        return [path for path in (self.result, self.qmap, self.report) if path is not None]


def target(option: str, given: str | None, several: bool, animated: bool = False) -> Target | None:
    """What an option names, folders made; raises ConfigError for a file where a folder is needed or of no format."""
    from patchscaler.imaging.animation import ANIMATED
    from patchscaler.imaging.files import FORMATS

    if given is None:
        return None
    path, pictures = Path(given), tuple({**FORMATS, **ANIMATED} if animated else FORMATS)
    suffixes = (".json",) if option == "--report" else pictures
    if os.path.isdir(path) or given.endswith(("/", os.sep)) or (several and not path.suffix):
        return Target(path, is_folder=True)
    if several:
        raise ConfigError(f"{option} {given}: several pictures need a folder; name one, with a '/' at its end")
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {given}: end the name with one of {', '.join(suffixes)}, or a folder's with '/'")
    return Target(path, is_folder=False)


def make_folders(job: Job, targets: Targets) -> None:
    """The folders that a job's files need, at or below those named in the call; raises ImageWriteError."""
    for path in job.outputs:
        if any(path.is_relative_to(root) for root in targets.folders):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = f"{path.parent}: cannot be made a folder ({error.strerror}); name another one"
                raise ImageWriteError(reason) from error


class Search(NamedTuple):
    """What the inputs of a call hold.

    sources     the pictures, none twice
    complaints  one for each input that has none or is missing
    others      files of folders that are no pictures by their names
    results     pictures of folders that bear our mark, and so are no inputs
    """

    sources: list[Source]
    complaints: list[str]
    others: list[Path]
    results: list[Path]


def find_sources(inputs: Sequence[Path], recursive: bool, frames: Frames) -> Search:
    """The pictures of all inputs; of folders, those that are not our own results."""
    from patchscaler.imaging.searching import find_pictures, is_result, search

    found: dict[Path, Source] = {}
    complaints: list[str] = []
    others: list[Path] = []
    results: list[Path] = []
    for path in inputs:
        try:
            for file in find_pictures([path], recursive):
                if path.is_dir() and is_result(file):
                    results.append(file)
                else:
                    found.setdefault(file, Source(file, path if path.is_dir() else None))
            if path.is_dir():
                others += search(path, recursive).others
        except ImageReadError as error:
            complaints.append(str(error))
        except OSError as error:  # a folder in its way may not be entered, a name is too long
            complaints.append(f"{path}: {error.strerror}; check the path and its permissions")
    sources = (
        found.values() if frames is Frames.refuse else (part for s in found.values() for part in _split(s, frames))
    )
    return Search(list(sources), complaints, others, results)


def left_out(search: Search, jobs: Sequence[Job], targets: Targets) -> str:
    """Words on what folders hold beside the call's pictures and their results; empty where that is nothing."""
    written = {os.path.realpath(path) for job in jobs for path in job.outputs}
    places = [os.path.realpath(folder) for folder in targets.folders]

    def strange(paths: Sequence[Path]) -> list[Path]:
        real = ((path, os.path.realpath(path)) for path in paths)
        return [p for p, r in real if r not in written and not any(Path(r).is_relative_to(place) for place in places)]

    others, results = strange(search.others), strange(search.results)
    words = []
    if others:
        kinds = sorted({path.suffix.lower() or path.name for path in others})
        named = ", ".join(kinds[:MOST_KINDS]) + (", ..." if len(kinds) > MOST_KINDS else "")
        words.append(f"{len(others)} other file{'s' * (len(others) > 1)} left out ({named})")
    if results:
        words.append(f"{len(results)} earlier result{'s' * (len(results) > 1)} left out; name one to enlarge it again")
    return "; ".join(words)


def _split(source: Source, frames: Frames) -> list[Source]:
    """The wanted frames of a file; a file that cannot be read stays whole, and is complained of when its turn comes."""
    from patchscaler.imaging.animation import is_animation
    from patchscaler.imaging.files import find_frames

    try:
        numbers = find_frames(source.path)
    except (ImageReadError, OSError):
        return [source]
    if len(numbers) < 2:
        return [source]
    if frames is Frames.all:  # pages are none, which is said when their turn comes
        return [source._replace(animated=is_animation(source.path))]
    if frames is Frames.first:
        return [source._replace(frame=numbers[0])]
    return [source._replace(frame=number) for number in numbers]


def plan_jobs(sources: Sequence[Source], targets: Targets, naming: Naming) -> list[Job]:
    """What is written where. Results of earlier calls, found in a folder of the call, are no sources.

    Raises ConfigError if an input or another result would be overwritten.
    """
    jobs = [
        _plan(source, targets, naming)
        for source in sources
        if source.folder is None or not any(_lies_in(source, folder) for folder in targets.folders)
    ]
    results = {os.path.realpath(path) for job in jobs for path in job.outputs}
    jobs = [job for job in jobs if job.source.folder is None or os.path.realpath(job.source.path) not in results]

    inputs = {os.path.realpath(job.source.path) for job in jobs}
    makers: dict[str, Source] = {}
    for job in jobs:
        for path in job.outputs:
            place = os.path.realpath(path)
            if place in inputs:
                raise ConfigError(f"{path}: is an input and would be overwritten; choose another folder or name")
            if place in makers:
                pair = f"{makers[place]} and for {job.source}"
                cure = "rename one, use two calls, or --name '{stem}_{ext}_{size}'"
                raise ConfigError(f"{path}: would be written twice, for {pair}; {cure}")
            makers[place] = job.source
    return jobs


def _plan(source: Source, targets: Targets, naming: Naming) -> Job:
    name = naming.stem(source) + naming.suffix(source)
    number = "" if source.frame is None else f"_{source.frame + 1:04d}"
    return Job(
        source,
        targets.result.file(source, name) if targets.result else source.path.with_name(name),
        targets.qmap and targets.qmap.file(source, f"{source.path.stem}{number}_qmap.png"),
        targets.report and targets.report.file(source, f"{source.path.stem}{number}_report.json"),
        frozenset(wanted.path for wanted in targets if wanted is not None and not wanted.is_folder),
    )


def _lies_in(source: Source, folder: Path) -> bool:
    """Whether a source lies in a folder for results that is itself below the folder searched."""
    assert source.folder is not None
    place, searched = Path(os.path.realpath(folder)), Path(os.path.realpath(source.folder))
    return (
        place != searched
        and place.is_relative_to(searched)
        and Path(os.path.realpath(source.path)).is_relative_to(place)
    )
