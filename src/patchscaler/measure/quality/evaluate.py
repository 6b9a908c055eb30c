"""One evaluation from request to report: write what is missing, pair, measure, judge."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchscaler.data.pairs import CONDITIONS
from patchscaler.errors import ConfigError, DataError
from patchscaler.measure.models import (
    BICUBIC,
    CEILING,
    DEFAULT,
    PATCHSCALER,
    RESTORER,
    SCALE,
    Enlarged,
    Way,
    bicubic,
    ceiling_of,
    load_model,
    run_ways,
    slug,
    variants,
    way_of,
    weights_megabytes,
)
from patchscaler.measure.pairing import check_sizes, pair_results, picture_size, pictures_by_stem
from patchscaler.measure.peers import Peer
from patchscaler.measure.quality.bars import Bar, judge
from patchscaler.measure.quality.measure import group_figures, measure
from patchscaler.measure.quality.report import ModelFacts, Report
from patchscaler.measure.rows import Patches, Row, Section
from patchscaler.measure.sets import write_inputs
from patchscaler.metrics.choice import choose_metrics, load_metrics
from patchscaler.metrics.lpips import load_lpips
from patchscaler.storage import model_folder

PLACEHOLDER = "{condition}"
FOLDERS = ("hr", "lr")  # beside the folders of rows

# (stage, units in all, None if unknown) -> what is called after each unit
Track = Callable[[str, int | None], Callable[[], None]]


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    peers        other upscalers, a row each; "{condition}" in a folder of results stands for each condition; those that
                 are run enlarge the inputs
    reference    folder of ground truths; with conditions their degraded reductions are the inputs
    inputs       folder of pictures that are enlarged as they are
    model        name or folder of a model, or None
    conditions   degradations, see `patchscaler.data.pairs.CONDITIONS`
    steps        of the groups; the first are the model's main row, further ones get rows of their own
    no_texture   a row without the texture prompt, too
    metrics      names and groups, comma separated
    features     folder of convolutions, see `load_convolutions`
    count        only the first so many pictures; 0: all
    shave        border that PSNR and SSIM leave out, in pixels

    Raises ConfigError for what contradicts itself.
    """

    peers: tuple[Peer, ...] = ()
    reference: Path | None = None
    inputs: Path | None = None
    model: str | None = None
    conditions: tuple[str, ...] = ()
    steps: tuple[tuple[int, ...], ...] = (DEFAULT,)
    no_texture: bool = False
    metrics: str = "default"
    features: Path | None = None
    seed: int = 0
    device: str = "cpu"
    batch_size: int = 64
    count: int = 0
    shave: int = SCALE

    def __post_init__(self) -> None:
        unknown = sorted(set(self.conditions) - set(CONDITIONS))
        if unknown:
            raise ConfigError(f'--conditions: "{unknown[0]}" is unknown; choose from {", ".join(CONDITIONS)}')
        if self.conditions and (self.reference is None or self.inputs is not None):
            raise ConfigError("--conditions degrade the ground truths of --ref, and go without --input")
        runs = self.model is not None or any(not peer.is_folder for peer in self.peers)
        if runs and self.inputs is None and not self.conditions:
            who = "--model needs" if self.model is not None else "peers that are run need"
            raise ConfigError(f"{who} pictures: --input FOLDER to enlarge, or --ref FOLDER with --conditions")
        if self.inputs is not None and not runs:
            raise ConfigError("--input are pictures to enlarge; name a --model or a --peer that does it")
        if not self.peers and self.model is None and not self.conditions:
            raise ConfigError("nothing to evaluate: name folders with --out NAME=FOLDER, or a model with --model")
        self._check_peers()

    def _check_peers(self) -> None:
        taken = {BICUBIC} if self.conditions or self.inputs is not None else set()
        if self.model is not None:
            taken |= {CEILING, *variants(self.steps, self.no_texture)}
        for peer in self.peers:
            given = f"--out {peer.name}={peer.text}"
            if peer.name in taken or slug(peer.name) in FOLDERS:
                raise ConfigError(f"{given}: {peer.name} is a row of its own here; name it otherwise")
            taken.add(peer.name)
            several = peer.is_folder and len(self.conditions) > 1
            if (PLACEHOLDER in peer.text) != bool(self.conditions) and (PLACEHOLDER in peer.text or several):
                raise ConfigError(
                    f"{given}: {PLACEHOLDER} in the folder goes with --conditions, and several conditions need it"
                )


def evaluate(
    request: Request,
    folder: Path,
    bars: Mapping[str, Bar] | None = None,
    track: Track = lambda stage, total: lambda: None,
) -> Report:
    """Evaluate; pictures that are made on the way are written to `folder` (see `sets`) and stay there.

    Raises WeightsError, DataError, ImageReadError, ConfigError: each says which file or option, and the cure.
    """
    names, named = choose_metrics(request.metrics, request.reference is not None)
    metrics, missing = load_metrics(names, named, shave=request.shave, folder=request.features, device=request.device)
    sections, facts = _sections(request, folder, track)
    measure(sections, metrics, track("measure", sum(len(s.stems) * len(s.rows) for s in sections)))
    if any(metric.name == "lpips_alex" for metric in metrics):
        _measure_groups(request, sections, track)
    outcomes = judge(bars or {}, sections, metrics, facts.weights_mb if facts else None)
    reference = None if request.reference is None else str(request.reference)
    return Report(sections, metrics, missing, outcomes, reference, facts)


def _sections(request: Request, folder: Path, track: Track) -> tuple[list[Section], ModelFacts | None]:
    """All rows with their files; what is given is paired and its sizes checked before anybody's long work."""
    sections = _open_sections(request, folder, track)
    given = [_given_rows(request, section) for section in sections]
    ways: dict[str, Way] = {BICUBIC: bicubic}
    ceiling, facts, tick = [], None, lambda: None
    if request.model is not None:
        model = load_model(request.model, request.device)
        options = {"seed": request.seed, "batch_size": request.batch_size}
        for name, own in variants(request.steps, request.no_texture).items():
            ways[name] = way_of(model, **own, **options)
        facts = _facts(request, model)
    ways |= {peer.name: peer.way(request.device) for peer in request.peers if not peer.is_folder}
    tick = track("enlarge", len(ways) * sum(len(s.inputs or ()) for s in sections))
    if request.model is not None and sections[0].references is not None:
        truths = Section(None, "", inputs=sections[0].references)
        ceiling = run_ways(truths, {CEILING: ceiling_of(model)}, folder)
    order = [BICUBIC, CEILING, *variants(request.steps, request.no_texture), *(peer.name for peer in request.peers)]
    for section, rows in zip(sections, given, strict=True):

        def note(stem: str, name: str, result: Enlarged, patches: dict[str, Patches] = section.patches) -> None:
            if name == PATCHSCALER:
                output = result.output
                groups = output.groups.flatten().tolist()
                patches[stem] = Patches(list(output.report.patches), groups, list(output.patch_boxes))
            tick()

        made = run_ways(section, ways, _place(folder, section), note) if section.inputs else []
        section.rows += sorted([*made, *ceiling, *rows], key=lambda row: order.index(row.name))
        if section.references is not None:
            for row in made:
                check_sizes(row.files, section.references)
    return sections, facts


def _open_sections(request: Request, folder: Path, track: Track) -> list[Section]:
    """One section for each condition, or one, with ground truths and inputs as far as there are any."""
    named = next((peer.name for peer in request.peers), BICUBIC)
    focus = PATCHSCALER if request.model is not None else named
    if request.conditions:
        assert request.reference is not None
        tick = track("degrade", None)
        return write_inputs(request.reference, folder, request.conditions, request.count, focus, tick)
    references = None if request.reference is None else _first(pictures_by_stem(request.reference), request.count)
    inputs = None if request.inputs is None else _inputs(request, request.inputs, references)
    return [Section(None, focus, references, inputs)]


def _facts(request: Request, model: Any) -> ModelFacts:
    return ModelFacts(
        name=str(request.model),
        steps=[list(steps) for steps in request.steps],
        seed=request.seed,
        dtype=str(model.dtype).removeprefix("torch."),
        device=request.device,
        weights_mb=round(weights_megabytes(Path(model_folder(request.model))), 2),
    )


def _given_rows(request: Request, section: Section) -> list[Row]:
    """Rows of the folders of results, paired and of the right sizes."""
    rows: list[Row] = []
    for peer in request.peers:
        if not peer.is_folder:
            continue
        folder = Path(peer.text.replace(PLACEHOLDER, section.condition or ""))
        if section.references is not None:
            files = pair_results(folder, section.references, left_out=_further(request, section.references))
            check_sizes(files, section.references)
        elif section.inputs is not None or rows:
            files = pair_results(folder, section.inputs if section.inputs is not None else rows[0].files)
        else:
            files = _first(pictures_by_stem(folder), request.count)
        rows.append(Row(peer.name, files))
    return rows


def _further(request: Request, references: Mapping[str, Path]) -> frozenset[str]:
    """Stems of the ground truths beyond --count, whose results are no strangers."""
    if not request.count or request.reference is None:
        return frozenset()
    return frozenset(path.stem for path in request.reference.rglob("*")) - set(references)


def _inputs(request: Request, folder: Path, references: Mapping[str, Path] | None) -> dict[str, Path]:
    """Pictures to enlarge, by the stem of their ground truth where there is one. DataError for wrong sizes."""
    if references is None:
        return _first(pictures_by_stem(folder), request.count)
    inputs = pair_results(folder, references, left_out=_further(request, references))
    for stem, path in inputs.items():
        size, wanted = picture_size(path), picture_size(references[stem])
        if (size.height * SCALE, size.width * SCALE) != wanted:
            raise DataError(
                f"{path}: {size.height}x{size.width} enlarged x{SCALE} doesn't give the {wanted.height}x{wanted.width} "
                f"of {references[stem]}"
            )
    return inputs


def _measure_groups(request: Request, sections: Sequence[Section], track: Track) -> None:
    grouped = [section for section in sections if section.patches and section.references is not None]
    if not grouped:
        return
    lpips = load_lpips("alex", request.features).to(request.device)
    tick = track("measure patches", sum(len(section.patches) for section in grouped))
    for section in grouped:
        assert section.references is not None
        before, after = (section.rows_by_name[name] for name in (RESTORER, PATCHSCALER))
        section.groups = group_figures(section.patches, section.references, before, after, lpips, tick)


def _place(folder: Path, section: Section) -> Path:
    return folder / section.condition if section.condition is not None else folder


def _first(pictures: dict[str, Path], count: int) -> dict[str, Path]:
    return dict(itertools.islice(pictures.items(), count or None))
