"""500 small pictures, 20 of them broken, in one job with two actors; a worker is killed, and later the driver.

    python scripts/batch_acceptance.py OUT                  # the faults; some minutes
    python scripts/batch_acceptance.py OUT --throughput     # pictures a second with one actor and with two

OUT gets the pictures, what `patchscaler upscale` makes of each, and what `patchscaler batch` makes of all. The script
ends with a line for each thing that holds, or with an AssertionError. Linux; needs the extra `cluster`.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

GOOD, BROKEN = 480, 20
STEPS = "1,2,3"
COMMAND = [sys.executable, "-m", "patchscaler"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def draw(rng: np.random.Generator, low: int, high: int) -> Image.Image:
    """Smooth, sharp and noisy regions, each side within [low, high]."""
    height, width = (int(side) for side in rng.integers(low, high + 1, 2))
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(1.5, 9) + phase) * np.cos(y / rng.uniform(1.5, 9)) for phase in range(3)]
    pixels = 128 + 80 * np.stack(waves, axis=2)
    pixels[height // 2 :, : width // 2] = 40 + 170 * (((x // 4 + y // 4) % 2)[height // 2 :, : width // 2, None])
    pixels[: height // 2, width // 2 :] += rng.normal(0, 30, pixels[: height // 2, width // 2 :].shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def make_pictures(folder: Path, count: int, low: int, high: int) -> None:
    """PNG, JPEG and WebP in subfolders; some grey, some with transparency."""
    rng = np.random.default_rng(8)
    for number in range(count):
        image = draw(rng, low, high)
        if number % 10 == 3:
            image = image.convert("L")
        if number % 12 == 4:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        suffix = "png" if image.mode in ("LA", "RGBA") else ("png", "jpg", "webp")[number % 3]
        path = folder / f"{number % 7}" / f"{number:04d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def make_broken(folder: Path) -> None:
    """Empty, text, cut off, of several frames, of a wrong header: four of each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(9)
    for number in range(BROKEN):
        image, path = draw(rng, 30, 40), folder / f"broken{number:02d}.png"
        image.save(path)
        data = path.read_bytes()
        if number % 5 == 0:
            data = b""
        elif number % 5 == 1:
            data = b"this is not a picture\n" * 20
        elif number % 5 == 2:
            data = data[: len(data) // 2]
        elif number % 5 == 3:
            data = data.replace(b"IHDR", b"IHDX")
        else:
            image.save(path, "GIF", save_all=True, append_images=[image.rotate(90)])
            continue
        path.write_bytes(data)


def batch(source: Path, sink: Path, *options: str) -> list[str]:
    return [*COMMAND, "batch", str(source), str(sink), "--steps", STEPS, "--cores", "1", "--gpus", "0", *options]


def committed(sink: Path) -> dict[str, dict]:
    """The rows that are written down, by key; asserts that none is there twice."""
    folder = sink / "_batch"
    rows: list[dict] = []
    for path in [*folder.glob("*.parquet"), *(folder / "parts").glob("part-*.parquet")]:
        try:
            rows += parquet.read_table(path).to_pylist()
        except FileNotFoundError:  # being merged just now
            continue
    assert len({row["key"] for row in rows}) == len(rows), "a picture is in the manifest twice"
    return {row["key"]: row for row in rows}


def wait_for(condition: Callable[[], object], what: str, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def running_workers(sink: Path) -> list[int]:
    """Processes that have begun a batch and not ended it: the newest line of each mark."""
    marks = (path.read_text().split() for path in (sink / "_batch" / "trying").glob("part-*"))
    return [int(lines[-1].rpartition(":")[2]) for lines in marks if lines]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def faults(out: Path, to: str) -> None:
    source, single, sink = out / "pictures", out / "single", out / f"batch_{to}"
    if not source.exists():
        make_pictures(source, GOOD, 16, 48)
        make_broken(source / "broken")
    if not single.exists():
        line = [*COMMAND, "upscale", str(source), "-r", "-o", str(single), "--steps", STEPS, "--device", "cpu"]
        alone = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert alone.stdout.splitlines()[-1] == f"{GOOD} enlarged, 0 skipped, {BROKEN} failed", alone.stdout[-300:]
        (out / "single.err").write_text(alone.stderr)
    shutil.rmtree(sink, ignore_errors=True)
    command = batch(source, sink, "--actors", "2", "--together", "16", "--store", "512", "--to", to, "--part", "20")

    first = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(committed(sink)) >= 100 and running_workers(sink), "100 pictures")
    victim = running_workers(sink)[0]
    os.kill(victim, signal.SIGKILL)
    print(f"killed worker {victim} after {len(committed(sink))} pictures")
    wait_for(lambda: len(committed(sink)) >= 250, "250 pictures")
    workers = running_workers(sink)
    first.kill()
    first.wait()
    wait_for(lambda: not any(map(alive, workers)), "the end of the killed driver's workers", 60)
    before = committed(sink)
    print(f"killed the driver after {len(before)} pictures")

    second = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    last = second.stdout.splitlines()[-1]
    print(f"restarted: {last}")
    assert f", {len(before)} finished before, " in last, second.stderr[-2000:]
    assert second.returncode == 1, "some failed"

    after = committed(sink)
    check(source, single, sink, to, before, after)
    failed = (out / "single.err").read_text().splitlines()
    said = {f"patchscaler: {source}/{row['reason']}" for row in after.values() if row["status"] == "failed"}
    assert said == set(failed), said ^ set(failed)
    print(f"{len(said)} failures with the reasons that `patchscaler upscale` gives")
    assert victim not in {int(row["worker"].rpartition(":")[2]) for key, row in after.items() if key not in before}


def check(source: Path, single: Path, sink: Path, to: str, before: dict, after: dict) -> None:
    expected = {str(path.relative_to(single)): path.read_bytes() for path in single.rglob("*.png")}
    assert len(expected) == GOOD
    found = results(sink, to)
    names = [name for name, _ in found]
    assert len(names) == len(set(names)) == GOOD, f"{len(names)} results"
    assert dict(found) == expected
    print(f"{GOOD} results identical to single runs, none missing, none doubled")
    done = {key: row for key, row in after.items() if row["status"] == "done"}
    assert len(done) == GOOD
    assert len(after) == GOOD + BROKEN
    assert all(after[key] == row for key, row in before.items()), "finished pictures were done again"
    for key, row in done.items():
        assert row["result_sha256"] == hashlib.sha256(expected[row["result"]]).hexdigest()
        assert row["source_sha256"] == hashlib.sha256((source / key).read_bytes()).hexdigest()
        assert row["seconds"] > 0
    print(f"{len(before)} rows of the first run unchanged; hashes of all rows are right")


def results(sink: Path, to: str) -> list[tuple[str, bytes]]:
    if to == "folder":
        return [(str(path.relative_to(sink)), path.read_bytes()) for path in sink.rglob("*.png")]
    if to == "parquet":
        rows = (row for path in sink.glob("*.parquet") for row in parquet.read_table(path).to_pylist())
        return [(row["name"], row["bytes"]) for row in rows]
    import tarfile

    found = []
    for path in sink.glob("*.tar"):
        with tarfile.open(path) as tar:
            found += [(m.name, tar.extractfile(m).read()) for m in tar if m.name.endswith(".png")]
    return found


def throughput(out: Path, count: int, repeats: int) -> None:
    """Between the first commit and the last, so without the start of Ray and of the networks."""
    source = out / "larger"
    if not source.exists():
        make_pictures(source, count, 32, 96)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(repeats):
        for actors in rates:
            sink = out / f"throughput_{actors}_{repeat}"
            shutil.rmtree(sink, ignore_errors=True)
            line = batch(source, sink, "--actors", str(actors), "--together", "8", "--store", "512")
            process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            times = [(time.monotonic(), int(words.split()[0])) for words in process.stdout if "before" not in words]
            assert process.wait() == 0
            (started, first), (ended, last) = times[0], times[-1]
            rates[actors].append((last - first) / (ended - started))
            seconds = [row["seconds"] for row in committed(sink).values()]
            mean = sum(seconds) / len(seconds)
            print(f"{actors} actors: {rates[actors][-1]:.2f} pictures/s, {mean:.3f} s of an actor for each", flush=True)
    one, two = (float(np.median(rates[actors])) for actors in (1, 2))
    print(f"medians: {one:.2f} and {two:.2f} pictures/s: {two / one:.2f} times")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--to", default="folder", choices=("folder", "shards", "parquet"))
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--count", type=int, default=480, help="pictures for --throughput")
    parser.add_argument("--repeats", type=int, default=3, help="runs for --throughput")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.throughput:
        throughput(arguments.out, arguments.count, arguments.repeats)
    else:
        faults(arguments.out, arguments.to)
