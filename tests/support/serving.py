"""A real `patchscaler serve` in a process of its own, for the tests of the API and of the page."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

SECONDS = 120.0  # for anything that a loaded machine may be slow at


def free_port() -> int:
    """For a server that comes back where it was."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Server:
    """url; folder: the server's temporary folder, which shows what it keeps."""

    def __init__(self, model: Path, folder: Path, *options: object) -> None:
        self.folder = folder
        folder.mkdir()
        code = "from patchscaler.cli.main import main; main()"
        arguments = ["serve", "--model", model, "--device", "cpu", "--port", 0, *options]
        environment = os.environ | {"TMPDIR": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.log = folder.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=log, env=environment,
                text=True,
            )  # fmt: skip
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert "serves at http://" in line, self.log.read_text()
        self.url = next(word for word in line.replace(",", " ").split() if word.startswith("http")).split("/api")[0]
        # A connection each: the server ends those that are quiet for 5 s, just when a loaded machine asks again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=self.url, timeout=SECONDS, trust_env=False, limits=limits)
        while True:
            with contextlib.suppress(httpx.ConnectError):
                self.client.get("/api/about").raise_for_status()
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def post(self, picture: bytes, **options: object) -> httpx.Response:
        return self.client.post(
            "/api/jobs", content=picture, params={key: str(value) for key, value in options.items()}
        )

    def wait(self, job: str) -> dict:
        """Poll until the job is finished."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            status = self.client.get(f"/api/jobs/{job}").raise_for_status().json()
            if status["state"] in ("done", "failed", "cancelled"):
                return status
            time.sleep(0.05)
        raise AssertionError(f"still {status} after {SECONDS} s")

    def kept(self) -> list[Path]:
        """Every file the server has in its temporary folder; os.walk puts up with those that go meanwhile."""
        walks = [step for root in self.folder.glob("patchscaler-*") for step in os.walk(root)]
        return sorted(Path(folder, name) for folder, _, names in walks for name in names)

    def memory(self) -> int:
        """Resident bytes; Linux only."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask the server to leave, as Ctrl-C does; its exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(timeout=SECONDS)
        assert self.process.stdout
        self.process.stdout.close()


@contextlib.contextmanager
def serving(model: Path, folder: Path, *options: object) -> Iterator[Server]:
    server = Server(model, folder, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
