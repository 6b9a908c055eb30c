"""How a pipeline is saved, loaded and offloaded, and what its folder holds beside diffusers' files: the way to its
class, its record, and a model card."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import is_accelerate_available
from huggingface_hub import create_repo, file_exists, upload_folder
from torch import nn

from patchscaler.engines.torch import default_dtype
from patchscaler.errors import ConfigError, WeightsError
from patchscaler.integrations.diffusers.calls import dtype_argument
from patchscaler.models.model import check_folder
from patchscaler.storage import model_folder, read_json

if TYPE_CHECKING:
    from typing_extensions import Self

# The file in a saved folder by which DiffusionPipeline finds the class, and its text.
CUSTOM_PIPELINE = "patchscaler_pipeline"
_CODE = """# DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
from patchscaler import PatchScalerPipeline

__all__ = ["PatchScalerPipeline"]
"""
RECORD = "record.json"
# What `upload` takes, as diffusers names it.
HUB_OPTIONS = ("repo_id", "private", "token", "commit_message", "create_pr")

_TAGS = ("diffusers", "super-resolution", "image-upscaling", "image-restoration", "patchscaler")
_CARD = """---
license: {spdx}
library_name: diffusers
pipeline_tag: image-to-image
tags:
{tags}
---

# {title}

Enlarges photos x4 with PatchScaler, a patch-independent latent diffusion model
([arXiv 2405.17158](https://arxiv.org/abs/2405.17158)), by its open implementation.

```python
from patchscaler import PatchScalerPipeline  # pip install patchscaler

pipe = PatchScalerPipeline.from_pretrained("{repository}")
pipe("photo.jpg").images[0].save("photo_x4.png")
```

Or by diffusers alone, which then runs `{code}.py` of this repository, three lines that import the package above:
`DiffusionPipeline.from_pretrained("{repository}", trust_remote_code=True)`.

## Licence

{licence}

## Figures

{figures}

## Limits

It is made for photographs. It invents what it cannot know: small text is not made readable, and faces and letters in
badly degraded pictures come out wrong. Don't use it where a picture is evidence: medical, legal or of identity. How
it was trained is in `{record}`, where that is here.
"""


def finish_folder(folder: Path, origin: Path | None) -> None:
    """Makes DiffusionPipeline find the class, and takes the record and the licences over from `origin`, the folder that
    the pipeline was loaded from."""
    (folder / f"{CUSTOM_PIPELINE}.py").write_text(_CODE, encoding="utf-8")
    index = read_json(folder / "model_index.json")
    index["_class_name"] = [CUSTOM_PIPELINE, "PatchScalerPipeline"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if origin is not None and origin.resolve() != folder.resolve():
        for path in (origin / RECORD, *sorted(origin.glob("LICENSE*"))):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def upload(
    folder: Path,
    repo_id: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """A saved folder to a repository of the hub (None: of the folder's name), with `model_card` as its README.md where
    the repository has none. Returns the address of the commit."""
    repository: str = create_repo(repo_id or folder.resolve().name, private=private, token=token, exist_ok=True).repo_id
    if not file_exists(repository, "README.md", token=token):
        (folder / "README.md").write_text(model_card(folder, repository), encoding="utf-8")
    message = commit_message or "Upload PatchScalerPipeline"
    done = upload_folder(
        repo_id=repository, folder_path=folder, token=token, commit_message=message, create_pr=create_pr
    )
    return str(done.commit_url)


def model_card(folder: Path, repository: str) -> str:
    """README.md of a model repository, by the record in the folder."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    licence = str(record.get("licence") or "Not on record; ask whoever made these weights.")
    known = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause"}
    return _CARD.format(
        spdx=known.get(licence.partition(";")[0].strip(), "other"),
        tags="\n".join(f"- {tag}" for tag in _TAGS),
        title=repository.rpartition("/")[2],
        repository=repository,
        code=CUSTOM_PIPELINE,
        licence=licence,
        figures=_figures(record.get("figures") or {}),
        record=RECORD,
    )


def _figures(figures: Mapping[str, Any]) -> str:
    """The record's figures, {"set": words, condition: {method: {metric: value}}}, as a table."""
    rows = [
        (condition, method, values)
        for condition, methods in figures.items()
        if isinstance(methods, Mapping)
        for method, values in methods.items()
        if isinstance(values, Mapping)
    ]
    if not rows:
        return "None on record."
    metrics = list(dict.fromkeys(name for *_, values in rows for name in values))
    lines = [f"| condition | | {' | '.join(metrics)} |", f"|---|---|{'---|' * len(metrics)}"]
    for condition, method, values in rows:
        cells = [f"{values[name]:.3f}" if name in values else "" for name in metrics]
        lines.append(f"| {condition} | {method} | {' | '.join(cells)} |")
    return "\n".join([f"{figures.get('set', '')}".strip(), "", *lines]).strip()


class SavedPipeline(DiffusionPipeline):
    """What PatchScalerPipeline does with its weights: load, save, upload, offload."""

    _origin: Path | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, **kwargs: Any) -> "Self":
        """A model folder, hub id or bundled preset (None: "tiny"), checked strictly.

        dtype  a precision, one for each part ({"restorer": ..., "default": ...}), or "auto": bfloat16 where the
               processor multiplies it natively, else float32. None: float32, as by DiffusionPipeline
        kwargs  otherwise diffusers'

        Raises WeightsError for missing, unknown or wrongly shaped tensors, naming the file, and for pickled weights.
        """
        name = model_folder(pretrained_model_name_or_path)
        if not os.path.isdir(name) and (name.count("/") != 1 or name.startswith((".", "/"))):
            raise WeightsError(f"{name}: no such model folder; name a folder, a hub id (owner/name) or leave it out")
        # Without accelerate diffusers asks everybody to install it; inference doesn't need it.
        kwargs = {"low_cpu_mem_usage": is_accelerate_available(), "use_safetensors": True} | kwargs
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or torch.float32
        dtype = default_dtype("cpu") if dtype == "auto" else dtype
        try:
            folder = name if os.path.isdir(name) else cls.download(name, **kwargs)
            check_folder(Path(folder), kwargs.get("variant"), kwargs)
            pipeline = super().from_pretrained(folder, **dtype_argument(dtype), **kwargs)
        except WeightsError:
            raise
        except (OSError, ValueError) as error:
            raise WeightsError(f"{name}: {' '.join(str(error).split())}") from error
        pipeline.register_to_config(_name_or_path=name)
        pipeline._origin = Path(folder)
        return pipeline

    @classmethod
    def _dict_from_json_file(cls, json_file: Any, **options: Any) -> dict[str, Any]:
        """The index names our file in the folder, for programs that know only diffusers: whoever has this class runs no
        code from there."""
        config: dict[str, Any] = super()._dict_from_json_file(json_file, **options)
        return config | {"_class_name": cls.__name__} if isinstance(config.get("_class_name"), list) else config

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "Self":
        """A pipeline of the same parts, or of those given instead, in the precision they have (diffusers makes them
        float32, the other pipeline's too) unless `dtype` is given."""
        if not isinstance(pipeline, cls) or {"dtype", "torch_dtype"} & kwargs.keys():
            made: Self = super().from_pipe(pipeline, **kwargs)
            return made
        made = cls(**{**pipeline.components, "overlap": pipeline.config["overlap"], **kwargs})
        made.register_to_config(_name_or_path=pipeline.name_or_path)
        made._origin = pipeline._origin
        return made

    def save_pretrained(  # type: ignore[override]  # use_flashpack is among kwargs: older versions have none
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As diffusers', with the file by which DiffusionPipeline loads the folder and, from the folder that the
        pipeline came from, its record and licences. `push_to_hub` uploads these too, and a model card where the
        repository has none. Raises ConfigError for safe_serialization=False."""
        if not safe_serialization:
            raise ConfigError("weights are saved as safetensors only: leave safe_serialization out")
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        super().save_pretrained(save_directory, variant=variant, max_shard_size=max_shard_size, **kwargs)
        finish_folder(Path(save_directory), self._origin or (Path(self.name_or_path) if self.name_or_path else None))
        if push_to_hub:
            upload(Path(save_directory), **hub)

    def push_to_hub(  # type: ignore[override]  # by name only
        self, repo_id: str, *, variant: str | None = None, **hub: Any
    ) -> str:
        """`save_pretrained` to a repository of the hub without keeping the folder. Returns the commit's address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant)
            return upload(Path(folder), repo_id, **hub)

    def enable_group_offload(  # type: ignore[override]  # by name only
        self,
        onload_device: torch.device | str,
        *,
        offload_to_disk_path: str | None = None,
        exclude_modules: str | Sequence[str] = (),
        **options: Any,
    ) -> None:
        """As diffusers', with a folder for each part on the disk: in one, layers of the same name would share a file.
        Raises ConfigError for a folder that isn't empty, whose files would be taken for these weights."""
        excluded = [exclude_modules] if isinstance(exclude_modules, str) else exclude_modules
        parts: dict[str, Any] = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        for name, part in parts.items():
            if name in excluded:
                part.to(onload_device)
                continue
            folder = offload_to_disk_path and os.path.join(offload_to_disk_path, name)
            if folder and os.path.isdir(folder) and os.listdir(folder):
                raise ConfigError(f"{folder}: not empty; offload to a fresh folder")
            if folder:  # safetensors hold no other order
                part.to(memory_format=torch.contiguous_format)
            part.enable_group_offload(torch.device(onload_device), offload_to_disk_path=folder, **options)
