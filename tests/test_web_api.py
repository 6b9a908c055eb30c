"""The HTTP API as programs use it: a real server process, asked over loopback by many at once and by the malicious."""

import io
import json
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchscaler.cli.main import main
from patchscaler.web.settings import STEPS, Quality

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from serving import Server, serving  # noqa: E402

FAST = ",".join(map(str, STEPS[Quality.fast]))
LIMITED = ("--max-megabytes", 1, "--max-megapixels", 0.5)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server") / "temporary"
    with serving(tiny_model, folder, "--no-page", *LIMITED) as running:
        yield running


def picture(number: int = 0, height: int = 16, width: int = 16, kind: str = "PNG", mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(number)
    samples = rng.integers(0, 256, (height, width, len(mode)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(samples.squeeze()).save(file, kind)
    return file.getvalue()


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
    assert result.content == by_command_line(monkeypatch, tmp_path, tiny_model, content, "--steps", FAST, "--seed", 7)
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


@pytest.mark.parametrize(("format", "kind", "mode"), FORMATS)
def test_the_result_has_the_format_asked_for(server: Server, format: str, kind: str, mode: str) -> None:
    job = server.post(picture(2, mode=mode), quality="fast", format=format).json()["id"]
    assert server.wait(job)["state"] == "done"
    image = Image.open(io.BytesIO(server.client.get(f"/api/jobs/{job}/result").content))
    assert (image.format, image.mode, image.size) == (kind, mode, (64, 64))


def test_nothing_of_the_upload_is_kept_when_the_job_is_done(server: Server) -> None:
    job = server.post(picture(3), quality="fast").json()["id"]
    server.wait(job)
    names = {path.name for path in server.kept() if job in str(path)}
    assert names == {"input.webp", "preview.webp", "result.png"}


def test_the_description_lists_every_path_and_refusal(server: Server) -> None:
    described = server.client.get("/openapi.json").json()
    paths = described["paths"]
    assert set(paths) == {
        "/api/about", "/api/jobs", "/api/jobs/{name}", "/api/jobs/{name}/events", "/api/jobs/{name}/map",
        "/api/jobs/{name}/preview", "/api/jobs/{name}/input", "/api/jobs/{name}/result",
    }  # fmt: skip
    post = paths["/api/jobs"]["post"]
    assert {"202", "400", "408", "413", "415", "422", "503"} <= set(post["responses"])
    assert post["requestBody"]["content"]["image/*"]["schema"]["format"] == "binary"
    assert set(described["components"]["schemas"]["JobStatus"]["required"]) <= set(server.post(picture()).json())
    assert server.client.get("/api/about").json()["max_pixels"] == 500_000


def test_the_examples_of_the_documentation_run(server: Server, tmp_path: Path) -> None:
    if not (shutil.which("bash") and shutil.which("curl")):
        pytest.skip("needs bash and curl")
    text = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
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
        options = ("--steps", FAST, "--seed", number)
        assert results[number] == by_command_line(monkeypatch, tmp_path, tiny_model, picture(number), *options)
    assert server.client.get("/api/about").json()["unfinished"] == 0
    assert sorted(server.kept()) == sorted(kept)
    assert server.memory() < 1.1 * memory
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(height: int, width: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


OTHERS = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
    b"%PDF-1.7\n1 0 obj\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"<html><script>1</script></html>",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    b"push graphic-context\nimage over 0,0 0,0 '|id'\npop graphic-context",
    b"PK\3\4" + bytes(60),
    b"\x7fELF" + bytes(60),
    b"MZ" + bytes(60),
    b"#!/bin/sh\nid\n",
    b"\x1f\x8b\x08" + bytes(60),
    b"8BPS\0\1" + bytes(60),
    b"P6 4 4 255\n" + bytes(48),
    b"P7\nWIDTH 4\n",
    b"\0\0\1\0\1\0" + bytes(60),
    b"/* XPM */\nstatic char *a[] = {",
    b"#define a_width 4\n#define a_height 4\n",
    b"qoif" + bytes(20),
    b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
    b"icns" + bytes(60),
    b"DDS " + bytes(124),
    b"SIMPLE  =                    T",
    b"ID3\3" + bytes(60),
    b"OggS" + bytes(60),
]


def malformed() -> list[tuple[str, bytes]]:
    """Truncated, bombs, wrong types, path tricks, noise: name and body."""
    rng = random.Random(5)
    kinds = {kind: picture(9, 40, 50, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")}
    bad = [("empty", b""), ("one byte", b"\x89"), ("zeros", bytes(5000)), ("too long", picture(0) + bytes(2**20))]
    for kind, whole in kinds.items():
        bad += [(f"{kind} cut at {part}/16", whole[: len(whole) * part // 16]) for part in range(1, 15)]
        bad += [(f"{kind} magic and noise {n}", whole[:12] + rng.randbytes(400)) for n in range(9)]
        bad += [(f"text before {kind}", b"hello " + whole)]
    # Headers that promise more than may be decoded.
    for side in (708, 5000, 30_000, 100_000, 2**31 - 1):
        bad += [
            (f"png of {side}", png(side, side)),
            (f"wide png of {side}", png(16, side * side if side < 9999 else side)),
        ]
    zeros = zlib.compress(bytes(40_000_000), 9)
    bad += [
        ("compressed text", png(9, 9, chunk(b"zTXt", b"a\0\0" + zeros))),
        ("profile", png(9, 9, chunk(b"iCCP", b"a\0\0" + zeros))),
    ]
    bad += [("gif of 65535", b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(9))]
    for side in (20_000, 2**30):
        bad += [(f"bmp of {side}", kinds["BMP"][:18] + struct.pack("<ii", side, side) + kinds["BMP"][26:])]
    bad += [("webp of 16384", kinds["WEBP"][:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\x00" * 2)]
    no_pixels = [png(0, 0), png(0, 5), png(5, 0)]
    bad += [(f"no pixels {n}", body) for n, body in enumerate(no_pixels)]
    # Other things than pictures, some of which Pillow would open if it were let.
    bad += [(f"other thing {n}", body) for n, body in enumerate(OTHERS)]
    # Paths in every place a client could write one.
    for path in (
        "/etc/passwd",
        "../../../../etc/passwd",
        "..\\..\\windows\\win.ini",
        "file:///etc/passwd",
        "C:\\boot.ini",
    ):
        form = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{path}"\r\n\r\n'.encode()
        call = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
        bad += [
            (f"{path} alone", path.encode()),
            (f"{path} in a form", form + kinds["PNG"] + b"\r\n--x--"),
            (f"{path} in a call", call),
        ]
    return bad


@pytest.mark.parametrize("path", [
    "GET /api/jobs/..%2f..%2f..%2fetc%2fpasswd", "GET /api/jobs/%2e%2e/result", "GET /api/jobs/x/result",
    "GET /api/jobs//etc/passwd/result", "DELETE /api/jobs/..%2f..%2f", "PUT /api/jobs",
    "GET /page/..%2f..%2fsettings.py", "GET /page/%2e%2e/api.py", "GET /file=/etc/passwd",
    "GET /gradio_api/file=/etc/passwd", "POST /gradio_api/upload", "POST /gradio_api/queue/join",
    "GET /gradio_api/proxy=http://localhost/", "POST /api/jobs?seed=-1", "POST /api/jobs?seed=1e400",
    f"POST /api/jobs?seed={2**63}", "POST /api/jobs?quality=../../etc", "POST /api/jobs?format=exe",
    "POST /api/jobs?format=%00",
])  # fmt: skip
def test_wrong_paths_and_arguments_are_refused(server: Server, path: str) -> None:
    method, path = path.split()
    answer = server.client.request(method, path, content=picture() if method == "POST" else None)
    assert 400 <= answer.status_code < 500
    assert isinstance(answer.json()["detail"], str)
    assert b"root:" not in answer.content


def test_other_sites_and_other_names_are_refused(server: Server) -> None:
    """A page of another site may not start or delete jobs, and may not come in under a name of its own."""
    client, body = server.client, picture()
    assert client.post("/api/jobs", content=body, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/api/jobs", content=body, headers={"Origin": "null"}).status_code == 403
    assert client.get("/api/about", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/api/about", headers={"Host": "localhost:1"}).status_code == 200
    answer = client.post("/api/jobs", content=body, params={"quality": "fast"}, headers={"Origin": server.url})
    assert answer.status_code == 202
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


def test_uploads_that_stop_half_way_leave_nothing(server: Server) -> None:
    """Their places in the queue too are free again."""
    for job in [server.post(picture(n), quality="fast").json()["id"] for n in range(2)]:
        server.wait(job)
    kept = server.kept()
    host, port = server.url.removeprefix("http://").split(":")
    for length, sent in ((10_000, 5_000), (400_000, 300_000), (50, 0)):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
            raw.sendall(bytes(sent))
    deadline = time.monotonic() + 30
    while server.client.get("/api/about").json()["unfinished"] or server.kept() != kept:
        assert time.monotonic() < deadline, server.kept()
        time.sleep(0.05)


def test_too_long_uploads_are_refused_while_they_arrive(server: Server) -> None:
    """Said before, by Content-Length, and unsaid, in chunks: long before the end."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(
            b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + bytes(9 * 2**20)
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        while sent < 10 * 2**20:
            raw.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            sent += 0x10000
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")


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


def test_wrong_calls_are_named(call_serve) -> None:
    for options, word in ((("--host", "example.org"), "--host"), (("--max-minutes", "0"), "job seconds")):
        answer = call_serve(*options)
        assert answer.returncode == 2
        assert word in answer.stderr


@pytest.fixture
def call_serve():
    code = "from patchscaler.cli.main import main; main()"
    return lambda *options: subprocess.run(
        [sys.executable, "-c", code, "serve", "--no-page", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
