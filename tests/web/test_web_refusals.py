"""What the API refuses by a look at the call, and how it ends uploads that are cut off or too long."""

import io
import socket
import time

import pytest
from PIL import Image

for needed in ("httpx", "fastapi", "uvicorn"):
    pytest.importorskip(needed)
from malformed_uploads import picture  # noqa: E402
from serving import SECONDS, Server  # noqa: E402


@pytest.mark.parametrize("path", [
    "GET /api/jobs/..%2f..%2f..%2fetc%2fpasswd", "GET /api/jobs/%2e%2e/result", "GET /api/jobs/x/result",
    "GET /api/jobs//etc/passwd/result", "DELETE /api/jobs/..%2f..%2f", "PUT /api/jobs",
    "GET /page/..%2f..%2fsettings.py", "GET /page/%2e%2e/api.py", "GET /file=/etc/passwd",
    "GET /docs", "GET /page", "POST /", "POST /page/page.js", "POST /api/jobs?seed=-1", "POST /api/jobs?seed=1e400",
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


def test_heic_is_taken_and_an_animation_told_what_the_page_can_do(server: Server) -> None:
    register_heif = pytest.importorskip("pillow_heif").register_heif_opener
    register_heif()
    image, heic, gif = Image.new("RGB", (64, 48), (200, 100, 50)), io.BytesIO(), io.BytesIO()
    image.save(heic, "HEIF")
    assert server.client.post("/api/jobs", content=heic.getvalue(), params={"quality": "fast"}).status_code == 202
    image.save(gif, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    answer = server.client.post("/api/jobs", content=gif.getvalue())
    assert answer.status_code == 422
    assert answer.json()["detail"] == "has 2 frames or pages; send the one you want as a picture of its own"


def test_uploads_whose_client_goes_leave_nothing(server: Server) -> None:
    """Their places in the queue too are free again."""
    for job in [server.post(picture(n), quality="fast").json()["id"] for n in range(2)]:
        server.wait(job)
    kept = server.kept()
    host, port = server.url.removeprefix("http://").split(":")
    content = picture(9, 700, 700)
    whole = len(content)  # of a client that goes before its picture is looked at: nobody could delete that job
    for length, sent in ((whole, 5_000), (whole, whole // 2), (50, 0), (whole, whole)):
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(f"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
            raw.sendall(content[:sent])
    deadline = time.monotonic() + SECONDS
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
