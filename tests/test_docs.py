"""What the documentation shows is true: Python runs, command lines do what they say, links lead somewhere."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tiny_backbones
from command_files import Call
from pages import ROOT, blocks
from patchscaler import PatchScalerPipeline
from patchscaler.data.pictures import PictureSet
from patchscaler.storage import model_folder
from patchscaler.training.memory import build_memory

DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "lab").glob("*.md")])
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")), *DOCS]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Image.Image) -> Path:
    """A folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    small = photo.resize((16, 12))
    small.save("photo.jpg", quality=95)
    small.save("scan.tif")
    small.convert("RGBA").save("logo.png")
    small.save("moving.gif", save_all=True, append_images=[small.rotate(180)])
    for name in ("holiday/a.jpg", "holiday/day 2/b.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        small.save(name)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/diffusers.md", "docs/adapters.md"])
def test_python_examples_run(desk: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    load = PatchScalerPipeline.from_pretrained
    monkeypatch.setattr(PatchScalerPipeline, "from_pretrained", lambda *names: load(*names, dtype=torch.float32))
    names: dict[str, object] = {}
    found = blocks(ROOT / page, "python")
    assert found
    for number, code in enumerate(found):
        exec(compile(code, f"{page}, example {number}", "exec"), names)
    if page == "docs/adapters.md":
        upscale: Any = names["upscale"]
        pixels, groups, evaluations = upscale(tiny_backbones.stable_diffusion(sample_size=16))
        assert pixels.shape == (1, 3, 48, 64)
        assert evaluations.max() == (6, 12, 20)[int(groups.max())]
    if page == "docs/python.md":
        said = capsys.readouterr().out.splitlines()
        assert "nowhere.jpg: no such file; check the path" in said
        assert any(line.startswith("scale 20 must lie between 1") for line in said)
        sizes = {"photo_x2.jpg": (32, 24), "photo_x2.tif": (32, 24), "logo_100.png": (100, 75), "deep.png": (36, 24)}
        for name, size in {**sizes, "last.webp": (16, 12)}.items():
            with Image.open(name) as image:
                assert image.size == size


def test_a_memory_of_ones_own_photos(desk: Path, training_pictures: Path) -> None:
    """As docs/your-own.md tells it, with few photos."""
    weights = Path(model_folder(None))
    Path("my_photos").mkdir()
    for path in training_pictures.iterdir():
        with Image.open(path) as image:
            image.resize((300, 260)).save(Path("my_photos") / path.name)
    build_memory(
        PictureSet("my_photos"),
        str(weights / "autoencoder"),
        str(weights / "texture_classifier"),
        "my_memory",
        size=20,
        candidates=30,
    )
    (code,) = blocks(ROOT / "docs" / "your-own.md", "python")
    exec(compile(code, "docs/your-own.md", "exec"), {})
    own = PatchScalerPipeline.from_pretrained("my_model", dtype=torch.float32)
    assert own("photo.jpg", steps=(1, 1, 1)).images[0].size == (64, 48)
    assert len(own.texture_memory.read(torch.arange(20)[:, None])) == 20


def test_command_lines_are_right(desk: Path, call: Call) -> None:
    lines = [line for code in blocks(ROOT / "docs" / "start.md", "sh") for line in code.splitlines()]
    assert len(lines) > 12
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "patchscaler"
        answer = call(*arguments, *([] if "--dry-run" in arguments else ["--dry-run"]))
        assert (answer.code, answer.err) == (0, ""), line
        assert " -> " in answer.out


def test_command_lines_elsewhere_name_real_options(call: Call) -> None:
    """Of every `patchscaler ...` line in any page: the command and its options exist."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^patchscaler ([a-z].*)$", text, re.MULTILINE):
            words = shlex.split(line.split("#")[0])
            command = [word for word in words[:2] if re.fullmatch("[a-z]+", word)]
            command = command[:2] if command[0] in ("memory", "data") else command[:1]
            known = call(*command, "--help").out
            for option in (word for word in words if word.startswith("--")):
                assert option[:20] in known, f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_page_says_first_what_it_is(page: Path) -> None:
    title, empty, kind = page.read_text(encoding="utf-8").splitlines()[:3]
    assert (title[:2], empty) == ("# ", "")
    assert re.match(r"\*(Guide|Reference|Recipe|Lab notes)[ :]", kind)
