"""The paper's order: restore, group, refine, render; and the public call around it, for any size."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from patchscaler.engines.load import load_engine
from patchscaler.engines.protocol import Engine
from patchscaler.imaging.sources import OnePicture, pictures_from
from patchscaler.imaging.tiles import PatchGrid, split
from patchscaler.options import OptionNames, Options
from patchscaler.pgs.gate import fused_share
from patchscaler.pgs.groups import assign_groups, confidence_from, count_steps
from patchscaler.report import PreviewCallback, ProgressCallback
from patchscaler.stages.budget import within_budget
from patchscaler.stages.canvas import LatentCanvas
from patchscaler.stages.executor import Executor, work_on
from patchscaler.stages.passes import Passes, Result
from patchscaler.stages.previews import Previews
from patchscaler.stages.refine import Patches
from patchscaler.stages.render import Renderer
from patchscaler.stages.restore import SECOND_HALO, CoarseLatents, first_tiles, inner, mixed, second_tiles
from patchscaler.stages.sizes import target_size
from patchscaler.stages.task import Task

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["Options", "Result", "Upscaler"]


class CallOptions(OptionNames, total=False):
    """All that the call takes beside the picture, for type checkers."""

    scale: int | float | None
    width: int | None
    height: int | None
    max_side: int | None
    on_progress: ProgressCallback | None
    on_preview: PreviewCallback | None
    options: Options | None
    file: str | Path | None
    resume: bool
    started: float | None


class Upscaler:
    """Enlarges pictures to any size from their own to eight times it (arXiv 2405.17158).

    model    None: the bundled one; or a bundled name, a folder, a hub id
    engine   what runs the networks: "auto", "onnx", "torch" (see `choose_engine`), or an `engines.protocol.Engine`
    device   "auto", "cpu", "cuda", "cuda:1", "mps", ...; of the engine
    workers  processes that share the patches, or the device of each: ("cuda:0", "cuda:1"). A script that asks for them
             needs the usual `if __name__ == "__main__":`, and ends them by `close` or as a context manager
    split    of the patches among workers: "cost", or "groups" as in the paper (hard | the others)
    on_loss  told of a worker that died; the others do its patches, in the end this process

    Raises WeightsError, ConfigError.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        engine: "str | Engine" = "auto",
        *,
        device: str = "auto",
        workers: int | Sequence[str] = 1,
        split: str = "cost",
        on_loss: Callable[[str], None] = lambda message: None,
        executor: Executor | None = None,
    ) -> None:
        self.engine: Engine = load_engine(model, engine, device) if isinstance(engine, str) else engine
        devices = [self.engine.device] * workers if isinstance(workers, int) else list(workers)
        self.executor = executor or Executor(self.engine, devices, split, on_loss)

    @overload
    def __call__(self, image: OnePicture, **named: "Unpack[CallOptions]") -> Result: ...

    @overload
    def __call__(self, image: list[Any] | tuple[Any, ...], **named: "Unpack[CallOptions]") -> list[Result]: ...

    @overload
    def __call__(self, image: Any, **named: "Unpack[CallOptions]") -> Any: ...  # an array's dimensions decide

    def __call__(
        self,
        image: Any,
        *,
        scale: int | float | None = None,
        width: int | None = None,
        height: int | None = None,
        max_side: int | None = None,
        on_progress: ProgressCallback | None = None,
        on_preview: PreviewCallback | None = None,
        options: Options | None = None,
        file: str | Path | None = None,
        resume: bool = False,
        started: float | None = None,
        **named: "Unpack[OptionNames]",
    ) -> Result | list[Result]:
        """Enlarges one picture, or several, one after the other; their proportions stay.

        image        path, bytes, file object, PIL picture, array (H,W,C), tensor (3,H,W) in [0,1] or Picture, any size
                     from 1x1; several: a list of these, an array (n,H,W,C) or tensor (n,3,H,W)
        scale        1 (restore only) to 8, fractions too; 4 if no size is given
        width, height, max_side  in pixels, instead of `scale`; of several, all are kept to
        options      see Options; their fields may be given by name instead: seed, quality, steps, ...
        on_progress  called with a Progress after every unit of work
        on_preview   called with a Preview after the restoration and after every batch of patch-steps
        file         the result is to be saved there: what memory can't hold lies in a hidden folder beside it, until
                     `Result.clear`, and pixels may be samples of 8 or 16 bits
        resume       go on where a killed call with the same picture, options and file stopped
        started      time.perf_counter() from which a budget counts; None: now

        Up to x4 is one pass of the model and a reduction, more two passes: the first leads to a quarter of the size.
        The alpha channel goes the same way as a grey picture, through the restorer alone.

        Returns Result, or a list of them for several. Raises ConfigError, ImageReadError.
        """
        chosen = (options or Options()).updated(**named)
        pictures, several = pictures_from(image)
        results = []
        for picture in pictures:
            size = target_size(picture.size, scale=scale, width=width, height=height, max_side=max_side)
            begun = time.perf_counter() if started is None else started
            passes = Passes(self.engine, picture, size, chosen, on_progress, on_preview, file, resume, begun)
            for task in passes:
                coarse = self.restore(task)
                patches = self.group(coarse)
                self.refine(patches)
                passes.take(task, patches, self.render(patches))
            results.append(passes.result(self.model_name))
        return results if several else results[0]

    def restore(self, task: Task) -> CoarseLatents:
        """GRM: coarse latents and their expected error (Eq. 1), tile by tile; by a second, larger restorer too, if the
        gate asks for it."""
        engine, model, report = self.engine, self.engine.model, task.report
        coarse = CoarseLatents(task, model)
        with report.stage("restore"):
            for tile in task.pending("restore", first_tiles(task.size, model)):
                wide = tile.widened(model.restore_reach or 0, task.size)
                coarse.write(tile, inner(tile, wide, engine.restore(coarse.pixels_of(wide))))
            coarse.pad()
        if model.gate is not None:
            chosen = task.options.denoise_level
            report.denoise = model.gate.denoise(coarse.gain) if chosen is None else chosen
        if report.denoise:
            with report.stage("second"):
                share, lean = fused_share(report.denoise)
                for tile in task.pending("second", second_tiles(task.size)):
                    wide = tile.widened(SECOND_HALO, task.size)
                    answer = inner(tile, wide, engine.fuse(coarse.pixels_of(wide), lean))
                    if share < 1:  # asked anew: a run killed after writing would mix the second answer in twice
                        wide = tile.widened(model.restore_reach or 0, task.size)
                        answer = mixed(inner(tile, wide, engine.restore(coarse.pixels_of(wide))), answer, share)
                    coarse.write(tile, answer)
                coarse.pad()
        return coarse

    def group(self, coarse: CoarseLatents) -> Patches:
        """PGS: the picture's patches, by their mean confidence simple, medium or hard (Eq. 2), with the steps of each
        group."""
        task, model = coarse.task, self.engine.model
        grid = PatchGrid(coarse.size, model.patch, model.patch - model.overlap)
        confidence = confidence_from(split(coarse.error, grid), model.eta).mean(axis=(1, 2, 3))
        groups = assign_groups(confidence, tuple(task.options.gammas))
        if "steps" in task.spill.notes:  # a resumed run keeps the steps that fitted the budget
            options = task.options.with_steps(task.spill.notes["steps"])
        else:
            options = within_budget(task, groups, self.engine, self.executor.count)
        task.spill.note(steps=options.groups.steps)
        task.on_options(options)
        task.report.count(count_steps(groups, options.groups), options.groups)
        return Patches(coarse, grid, groups, options)

    def refine(self, patches: Patches) -> None:
        """Each patch's texture prompt (Algorithm 1), and Patch-DiT from its group's start time to 0 (Eq. 6, 7): kept in
        `patches`, those without steps as the restorer made them."""
        task = patches.task
        previews = Previews(task.on_preview, self.engine, patches) if task.on_preview else None
        size = int(task.spill.notes.get("set_size") or self.executor.set_size(len(patches.order)))
        self.executor.refine(work_on(patches, size, previews), patches.options, task.report, task.notify)

    def render(self, patches: Patches) -> Any:
        """Blend, decode and colour fix, band by band of rows: the picture (1,3,H,W), or its latents (1,c,h,w) where the
        task's canvas is one for latents."""
        task = patches.task
        renderer = Renderer(self.engine, task.picture, patches.grid, patches.latents_of)
        if isinstance(task.canvas, LatentCanvas):
            return renderer.blend(0, task.size.height)
        renderer.run(task.canvas, task.spill, task.report, task.notify)
        return task.canvas.pixels

    @property
    def model_name(self) -> str:
        """For the history of results: not the folder, which is private."""
        return Path(self.engine.model.name).name

    def close(self) -> None:
        """Ends the workers."""
        self.executor.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
