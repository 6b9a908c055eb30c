"""Other upscalers: how they are named, and real ones run: a command, and a published network by its file."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from command_files import Call, draw
from patchscaler.errors import ConfigError, DataError, WeightsError
from patchscaler.measure.pairing import read_pixels
from patchscaler.measure.peers import Peer, load_checkpoint

BIG = "import sys; from PIL import Image; i = Image.open(sys.argv[1]); i.resize((64, 64)).save(sys.argv[2])"
COMMAND = f"nearest={sys.executable} -c '{BIG}' {{input}} {{output}}"


def test_a_command_is_split_as_a_shell_does() -> None:
    peer = Peer.parse("mine=up --in={input} 'a b' {output}")
    assert peer.name == "mine"
    assert peer.call(Path("in put"), Path("o")) == ["up", "--in=in put", "a b", "o"]


def test_folders_and_checkpoints_are_told_apart() -> None:
    assert Peer.parse("results/a").name == "a"
    assert Peer.parse("results/a").is_folder
    assert Peer.parse("p=results/{condition}/a").text == "results/{condition}/a"
    swin = Peer.parse("SwinIR=nets/003_swinir.pth")
    assert (swin.name, swin.is_checkpoint, swin.short) == ("SwinIR", True, "003_swinir.pth")
    assert swin.call(Path("i.png"), Path("o.png"))[-3:] == [
        str(Path("nets/003_swinir.pth").resolve()),
        "i.png",
        "o.png",
    ]
    with pytest.raises(ConfigError, match="a folder of results has no time"):
        Peer.parse("a=b").call(Path("i"), Path("o"))


@pytest.mark.parametrize(
    "text", ["up {input} {output}", "=up {input} {output}", "a=", "a=up {input}", "a=up '{output}", "", "a=up {output}"]
)
def test_wrong_peers(text: str) -> None:
    with pytest.raises(ConfigError, match="peer"):
        Peer.parse(text)


def test_a_command_is_measured_beside_results(call: Call, tmp_path: Path, features: Path) -> None:
    for n, name in enumerate("ab"):
        draw(tmp_path / "hr" / f"{name}.png", 64, 64, n)
    common = ("--features", features, "--device", "cpu", "--metrics", "psnr_y", "--json", "r.json")
    answer = call("evaluate", "--ref", "hr", "--peer", COMMAND, "--save", "kept", *common)
    assert answer.code == 0, answer.err
    (section,) = json.loads((tmp_path / "r.json").read_text())["conditions"]
    assert [row["name"] for row in section["rows"]] == ["bicubic", "nearest"]
    small = tmp_path / "kept" / "bicubic" / "lr" / "a.png"
    with Image.open(small) as image, Image.open(tmp_path / "kept" / "bicubic" / "nearest" / "a.png") as result:
        assert result.tobytes() == image.resize((64, 64)).tobytes()


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png")
    code = "import sys; print('too hot', file=sys.stderr); sys.exit(7)"
    with pytest.raises(DataError, match=r"peer p: no result of a\.png, code 7 \(too hot\)"):
        Peer.parse(f'p={sys.executable} -c "{code}" {{input}} {{output}}').way("cpu")(picture)
    with pytest.raises(DataError, match="no-such can't be started"):
        Peer.parse("p=./no-such {input} {output}").way("cpu")(picture)


def test_without_spandrel_a_checkpoint_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(WeightsError, match=r"net\.pth: published checkpoints need spandrel: .*patchscaler\[peers\]"):
        load_checkpoint(tmp_path / "net.pth", "cpu")


def test_a_published_network_is_known_by_its_weights(tmp_path: Path) -> None:
    """An RRDB network of ESRGAN's names, saved as Real-ESRGAN's are."""
    try:
        import spandrel
    except Exception as error:  # absent, or a torchvision for another torch
        pytest.skip(f"spandrel can't be imported: {error}")
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=1, scale=4, in_nc=3, out_nc=3)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    picture = draw(tmp_path / "a.png", 9, 11)
    result = Peer.parse(f"esrgan={tmp_path / 'net.pth'}").way("cpu")(picture)
    with torch.no_grad():
        wanted = network.eval()(read_pixels(picture)).clamp(0, 1)
    assert result.pixels.shape == (1, 3, 36, 44)
    torch.testing.assert_close(result.pixels, wanted)
    assert result.figures["seconds"] > 0
    with pytest.raises(WeightsError, match=r"absent\.pth: no such file"):
        load_checkpoint(tmp_path / "absent.pth", "cpu")
    torch.save({"x": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="spandrel doesn't know this network"):
        load_checkpoint(tmp_path / "other.pth", "cpu")
    assert spandrel.__version__
