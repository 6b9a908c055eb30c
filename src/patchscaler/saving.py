"""What a saved pipeline's folder holds beside diffusers' files: the way to its class, its record, and a model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import create_repo, file_exists, upload_folder

from patchscaler.storage import read_json

# The file in a saved folder by which DiffusionPipeline finds the class, and its text.
CUSTOM_PIPELINE = "patchscaler_pipeline"
_CODE = """# DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
from patchscaler.pipeline import PatchScalerPipeline

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
