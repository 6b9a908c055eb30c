"""The page on replication says what the records say, of every claim and mechanism."""

import json
import re
import shutil
from pathlib import Path

import pytest

import patchscaler
from pages import script
from patchscaler.measure.experiments.catalogue import CATALOGUE, CLAIMS, PLUG_IN
from patchscaler.measure.experiments.record import RESULTS, plot_of, weights_digest
from patchscaler.measure.peers import Peer
from patchscaler.storage import model_folder
from patchscaler.training.settings import read_toml

write_replication = script("write_replication")


def test_every_mechanism_is_where_the_page_says() -> None:
    text = (write_replication.KEPT / write_replication.MECHANISMS).read_text(encoding="utf-8")
    source = Path(patchscaler.__file__).parent
    named = re.findall(r"`([\w/]+(?:\.py|/))`", text)
    assert len(named) > 15
    for path in named:
        assert (source / path).exists(), f"{path} is no more: say in docs/replication/mechanisms.txt where it went"
    sources = "".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py"))
    for name in re.findall(r"`([a-z_]+)`", text):
        assert re.search(rf"\b{name}\b", sources), name


def test_all_twelve_peers_are_named() -> None:
    peers = read_toml(Path(__file__).parents[2] / "configs" / "peers.toml")
    assert len(peers) == 12
    for name, entry in peers.items():
        assert {"paper", "code", "weights", "licence", "peer"} <= set(entry)
        peer = Peer.parse(entry["peer"])
        assert peer.name == name
        assert peer.is_checkpoint or ("INPUT" in entry["run"] and peer.text == "OUTPUT" and "OUTPUT" in entry["run"])


def test_the_page_is_what_the_records_say() -> None:
    """After a change of records, claims, mechanisms or bundled weights: python scripts/write_replication.py."""
    assert write_replication.PAGE.read_text(encoding="utf-8") == write_replication.write()


def test_the_page_holds_every_claim_and_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "experiment": "runtime",
        "patchscaler": "1",
        "commit": "abc",
        "date": "2026-01-01",
        "seconds": 60.0,
        "machine": {"processor": "P", "cores": 2, "threads": 2, "torch": "2"},
        "weights_sha256": "0" * 64,
        "setting": {"model": "tiny", "data": "d", "seed": 0, "device": "cpu", "dtype": "auto"},
        "pictures": ["a"],
        "verdicts": {"runtime": {"holds": True, "figure": "0.5 of it", "ran": "this"}},
        "tables": [{"title": "T", "columns": [["", 0], ["s", 1]], "rows": [["x", 2.25]]}],
        "maps": [],
    }
    (tmp_path / "results" / "runtime").mkdir(parents=True)
    (tmp_path / "results" / "runtime" / RESULTS).write_text(json.dumps(values))
    (tmp_path / "results" / "runtime" / plot_of("runtime")).write_bytes(b"plot")
    (tmp_path / "kept").mkdir()
    shutil.copy(write_replication.KEPT / write_replication.MECHANISMS, tmp_path / "kept")
    monkeypatch.setattr(write_replication, "KEPT", tmp_path / "kept")
    write_replication.collect(tmp_path / "results")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "mechanisms.txt",
        "runtime.json",
        "runtime.png",
    ]
    page = write_replication.write()
    assert all(claim.text in page for claim in CLAIMS.values())
    assert "| this | 0.5 of it | **holds**, stale |" in page
    assert page.count("**Stale**: made with other weights") == 1
    assert "| x | 2.2 |" in page
    assert page.count("\nNot run yet.") == len(CATALOGUE) - 2
    assert page.count("\nCan't be run here: no weights of another pipeline") == 1
    assert page.count(f"| {CLAIMS[PLUG_IN].reason} |") == 2
    values["weights_sha256"] = weights_digest(Path(model_folder(None)))
    (tmp_path / "kept" / "runtime.json").write_text(json.dumps(values))
    assert "| this | 0.5 of it | **holds** |" in (page := write_replication.write())
    assert "**Stale**" not in page
    with pytest.raises(SystemExit):
        write_replication.collect(tmp_path / "kept")
