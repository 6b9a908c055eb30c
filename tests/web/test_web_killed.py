"""What docs/serve.md promises to programs when a server is stopped or killed, with fifty jobs under way."""

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx")
for needed in ("fastapi", "uvicorn"):
    pytest.importorskip(needed)
from malformed_uploads import picture  # noqa: E402
from serving import SECONDS, Server, free_port  # noqa: E402


def persistent(url: str, content: bytes, seed: int, done: list[int]) -> bytes:
    """What a client does to get its picture from a server that may go: whatever is lost, the same POST again."""
    deadline, job = time.monotonic() + 2 * SECONDS, None
    with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                if job is None:
                    options = {"quality": "fast", "seed": seed}
                    job = client.post("/api/jobs", params=options, content=content).raise_for_status().json()["id"]
                status = client.get(f"/api/jobs/{job}").raise_for_status().json()
                assert status["state"] not in ("failed", "cancelled"), status
                if status["state"] == "done":
                    result = client.get(f"/api/jobs/{job}/result").raise_for_status().content
                    done.append(seed)
                    return result
            except httpx.TransportError:
                job = None
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 404:
                    raise
                job = None
            time.sleep(0.1)
    raise AssertionError("not done in time")


def test_fifty_jobs_outlive_a_killed_server(tiny_model: Path, tmp_path: Path) -> None:
    port, done = free_port(), []
    server = Server(tiny_model, tmp_path / "first", "--no-page", "--port", port)
    with ThreadPoolExecutor(50) as pool:
        jobs = [pool.submit(persistent, server.url, picture(n), n, done) for n in range(50)]
        while len(done) < 5:
            time.sleep(0.01)
        server.kill()
        before = len(done)
        assert before < 50
        server = Server(tiny_model, tmp_path / "second", "--no-page", "--port", port)
        results = [job.result() for job in jobs]
    assert sorted(done) == list(range(50))
    # Those from before, those from afterwards, and those asked for again: the same POST, the same bytes.
    for number in (done[0], done[before - 1], done[before], done[-1]):
        assert persistent(server.url, picture(number), number, []) == results[number]
    server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_a_server_that_is_stopped_says_nothing_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """With a job running, one waiting, a stream that is read and an upload half way."""
    server = Server(tiny_model, tmp_path / "temporary")
    jobs = [server.post(picture(n, 640, 640, "JPEG"), quality="best").json()["id"] for n in range(2)]
    begun, ended = threading.Event(), threading.Event()

    def read() -> None:
        with httpx.stream("GET", f"{server.url}/api/jobs/{jobs[1]}/events", timeout=SECONDS, trust_env=False) as answer:
            for _ in answer.iter_lines():  # to the regular end of the stream
                begun.set()
            ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(SECONDS)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as raw:
        raw.sendall(b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n" + bytes(5000))
        while server.client.get("/api/about").json()["unfinished"] < 3:
            time.sleep(0.02)
        assert server.stop(number) in (0, -number)
        assert raw.recv(4096).startswith(b"HTTP/1.1 503 ")
    reader.join(SECONDS)
    assert ended.is_set()
    assert server.log.read_text() == ""
    assert not list((tmp_path / "temporary").glob("patchscaler-*"))
