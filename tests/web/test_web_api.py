"""The HTTP API as programs use it: a real server process, asked over loopback by many at once and by the malicious."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from patchscaler.cli.main import main

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from command_files import Call  # noqa: E402
from malformed_uploads import malformed, picture  # noqa: E402
from serving import Server, serving  # noqa: E402


def by_command_line(
    monkeypatch: pytest.MonkeyPatch, folder: Path, model: Path, content: bytes, *options: object
) -> bytes:
    """What `patchscaler upscale` writes for the same picture."""
    source, result = folder / "picture", folder / "result.png"
    source.write_bytes(content)
    arguments = ["upscale", source, "-o", result, "--model", model, "--device", "cpu", *options]
    monkeypatch.setattr(sys, "argv", ["patchscaler", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    return result.read_bytes()


def events(server: Server, job: str) -> list[dict]:
    """All server-sent events of a job, until the stream ends."""
    with httpx.stream("GET", f"{server.url}/api/jobs/{job}/events", timeout=120, trust_env=False) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    assert {line.split(":")[0] for line in lines if line} <= {"event", "data", ""}
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


# What a program does


def test_a_job_from_post_to_result(server: Server, tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    content = picture(1, 24, 17)
    answer = server.post(content, quality="fast", seed=7)
    assert answer.status_code == 202
    job = answer.json()["id"]
    assert answer.headers["location"] == f"/api/jobs/{job}"
    seen = events(server, job)
    assert seen[-1]["state"] == "done"
    assert seen[-1]["progress"] == 1
    assert [status["progress"] for status in seen] == sorted(status["progress"] for status in seen)
    assert seen[-1]["input"] == {"height": 24, "width": 17}
    assert seen[-1]["output"] == {"height": 96, "width": 68}
    assert seen[-1]["preview"] >= 2  # the coarse picture, and the last one

    result = server.client.get(f"/api/jobs/{job}/result")
    assert result.headers["content-type"] == "image/png"
    assert result.content == by_command_line(
        monkeypatch, tmp_path, tiny_model, content, "--quality", "fast", "--seed", 7
    )
    # The name that a browser saves it under can't be a path, nor end the header.
    for asked, name in ((None, "picture_x4.png"), ("My cat", "My%20cat_x4.png"), ("../a\r\nb/ü", "ab%C3%BC_x4.png")):
        answer = server.client.get(f"/api/jobs/{job}/result", params=asked and {"save_as": asked})
        disposition = answer.headers["content-disposition"]
        assert answer.content == result.content
        assert disposition.startswith("attachment; ")
        assert disposition.strip('"').endswith(name)
    assert server.client.get(f"/api/jobs/{job}/result", params={"save_as": "x" * 201}).status_code == 422
    patches = server.client.get(f"/api/jobs/{job}/map").json()
    assert len(patches["groups"]) == len(patches["boxes"]) == sum(patches["counts"])
    assert dict(zip(patches["names"], patches["counts"], strict=True)) == seen[-1]["patches"]
    assert max(top + high for top, _, high, _ in patches["boxes"]) == 96
    for kind, size in (("preview", (68, 96)), ("input", (17, 24))):
        shown = server.client.get(f"/api/jobs/{job}/{kind}")
        assert Image.open(io.BytesIO(shown.content)).size == size

    assert server.client.delete(f"/api/jobs/{job}").status_code == 204
    for path in ("", "/result", "/preview", "/input", "/map", "/events"):
        assert server.client.get(f"/api/jobs/{job}{path}").status_code == 404
    assert not [path for path in server.kept() if job in str(path)]


FORMATS = [("png", "PNG", "RGBA"), ("jpg", "JPEG", "RGB"), ("webp", "WEBP", "RGBA"), ("tif", "TIFF", "L")]


@pytest.mark.parametrize(("scale", "size"), [(1, (17, 24)), (2.5, (43, 60)), (4, (68, 96))])
def test_any_size_up_to_four_times(
    scale: float, size: tuple[int, int], server: Server, tiny_model: Path, tmp_path: Path, monkeypatch
) -> None:
    content = picture(3, 24, 17)
    job = server.post(content, quality="fast", scale=scale).json()
    assert (job["output"]["width"], job["output"]["height"]) == size
    server.wait(job["id"])
    answer = server.client.get(f"/api/jobs/{job['id']}/result", params={"save_as": "a"})
    assert f'filename="a_x{scale:g}.png"' in answer.headers["content-disposition"]
    own = ("--quality", "fast", "--scale", scale)
    assert answer.content == by_command_line(monkeypatch, tmp_path, tiny_model, content, *own)
    boxes = server.client.get(f"/api/jobs/{job['id']}/map").json()["boxes"]
    assert max(top + height for top, _, height, _ in boxes) == size[1]
    assert max(left + width for _, left, _, width in boxes) == size[0]


@pytest.mark.parametrize("scale", [0.5, 4.01, "nan", "x2"])
def test_other_sizes_are_refused(scale: float | str, server: Server) -> None:
    answer = server.post(picture(3), scale=scale)
    assert (answer.status_code, "scale" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(("format", "kind", "mode"), FORMATS)
def test_the_result_has_the_format_asked_for(server: Server, format: str, kind: str, mode: str) -> None:
    job = server.post(picture(2, mode=mode), quality="fast", format=format).json()["id"]
    assert server.wait(job)["state"] == "done"
    image = Image.open(io.BytesIO(server.client.get(f"/api/jobs/{job}/result").content))
    assert (image.format, image.mode, image.size) == (kind, mode, (64, 64))


def test_pictures_of_phones_are_taken(server: Server) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.open(io.BytesIO(picture(4, 24, 32)))).save(file)
    answer = server.post(file.getvalue(), quality="fast")
    assert answer.status_code == 202, answer.text
    assert answer.json()["input"] == {"height": 24, "width": 32}
    assert server.wait(answer.json()["id"])["state"] == "done"
    assert "HEIF" in server.client.get("/api/about").json()["reads"]


def test_nothing_of_the_upload_is_kept_when_the_job_is_done(server: Server) -> None:
    job = server.post(picture(3), quality="fast").json()["id"]
    server.wait(job)
    names = {path.name for path in server.kept() if job in str(path)}
    assert names == {"input.webp", "preview.webp", "result.png"}


def test_the_examples_of_the_documentation_run(server: Server, tmp_path: Path) -> None:
    if not (shutil.which("bash") and shutil.which("curl")):
        pytest.skip("needs bash and curl")
    text = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes(picture(8, kind="JPEG"))
    script = "set -euo pipefail\n" + example.replace("http://127.0.0.1:7860", server.url)
    answer = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert '"state":"done"' in answer.stdout
    with Image.open(tmp_path / "photo_x4.png") as image:
        assert image.size == (64, 64)
    assert json.loads((tmp_path / "map.json").read_text())["names"] == ["simple", "medium", "hard"]


# Many at once


def test_fifty_at_once_and_two_hundred_malformed(server: Server, tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    """No crash, no lost job, every refusal a 4xx in one line without paths, memory back within 10 %."""

    def enlarge(number: int) -> tuple[int, bytes]:
        answer = server.post(picture(number), quality="fast", seed=number)
        assert answer.status_code == 202, answer.text
        job = answer.json()["id"]
        state = events(server, job)[-1] if number % 2 else server.wait(job)
        assert state["state"] == "done", state
        result = server.client.get(f"/api/jobs/{job}/result").content
        assert server.client.delete(f"/api/jobs/{job}").status_code == 204
        return number, result

    def refuse(item: tuple[str, bytes]) -> None:
        name, body = item
        answer = server.post(body, quality="fast")
        assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
        detail = answer.json()["detail"]
        assert isinstance(detail, str), name
        assert detail and "\n" not in detail and "/" not in detail.replace("text/", ""), (name, detail)  # noqa: PT018

    bad = malformed()
    assert len(bad) >= 200
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(enlarge, range(50)))  # the first round warms up
        list(pool.map(refuse, bad))
    kept, memory = server.kept(), server.memory()
    with ThreadPoolExecutor(50) as pool:
        refused = [pool.submit(refuse, item) for item in bad]
        results = dict(pool.map(enlarge, range(50)))
        for future in refused:
            future.result()
    assert sorted(results) == list(range(50))
    assert len(set(results.values())) == 50
    for number in (0, 31):
        options = ("--quality", "fast", "--seed", number)
        assert results[number] == by_command_line(monkeypatch, tmp_path, tiny_model, picture(number), *options)
    assert server.client.get("/api/about").json()["unfinished"] == 0
    assert sorted(server.kept()) == sorted(kept)
    assert server.memory() < 1.1 * memory
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


# Limits of the queue, of time, and of keeping


def test_a_small_server_refuses_stops_and_forgets(tiny_model: Path, tmp_path: Path) -> None:
    limits = ("--queue", 2, "--max-minutes", 0.02, "--keep-minutes", 0.15, "--max-megapixels", 1)
    with serving(tiny_model, tmp_path / "temporary", "--no-page", *limits) as server:
        large = picture(4, 700, 700)
        first = server.post(large, quality="best").json()["id"]
        while server.client.get(f"/api/jobs/{first}").json()["state"] != "running":
            time.sleep(0.01)
        second = server.post(picture(5), quality="fast").json()
        assert (second["state"], second["ahead"]) == ("queued", 1)
        full = server.post(picture(6))
        assert (full.status_code, full.headers["retry-after"]) == (503, "10")
        assert "2 pictures" in full.json()["detail"]
        assert server.client.get(f"/api/jobs/{second['id']}/result").status_code == 409

        failed = server.wait(first)
        assert failed["state"] == "failed"
        assert "took longer than 0.02 minutes" in failed["error"]
        assert server.client.get(f"/api/jobs/{first}/result").status_code == 409
        assert server.wait(second["id"])["state"] == "done"

        third = server.post(large, quality="best").json()["id"]
        with httpx.stream("GET", f"{server.url}/api/jobs/{third}/events", timeout=120, trust_env=False) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: status"
            assert server.client.delete(f"/api/jobs/{third}").status_code == 204
            last = [line for line in lines if line.startswith("data: ")][-1]
        assert json.loads(last.removeprefix("data: "))["state"] == "cancelled"
        assert server.client.get(f"/api/jobs/{third}").status_code == 404

        deadline = time.monotonic() + 30
        while server.kept():
            assert time.monotonic() < deadline, server.kept()
            time.sleep(0.1)
        assert server.client.get(f"/api/jobs/{second['id']}").status_code == 404

        # It leaves at once when asked to, in the middle of a job, and leaves nothing behind.
        server.post(large, quality="best")
        server.stop()
        assert not list((tmp_path / "temporary").glob("patchscaler-*"))


def test_wrong_calls_are_named(call: Call) -> None:
    for options, word in ((("--host", "example.org"), "--host"), (("--max-minutes", "0"), "job seconds")):
        answer = call("serve", "--no-page", *options)
        assert answer.code == 2
        assert word in answer.err
