"""The process that serves: uvicorn, and how it stops."""

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

GRACE_SECONDS = 5  # for answers that are under way when the server is asked to stop


class Server(uvicorn.Server):
    """Bound to its address when it is made, so that a port of 0 is known before it runs."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        config = uvicorn.Config(
            app, host=host, port=port, log_level="warning", proxy_headers=False, server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS, limit_concurrency=1000, ws="none",
        )  # fmt: skip
        super().__init__(config)
        self.app = app
        self.socket: socket.socket = config.bind_socket()

    @property
    def port(self) -> int:
        return self.socket.getsockname()[1]

    def serve_until_asked_to_stop(self) -> None:
        try:
            self.run(sockets=[self.socket])
        except KeyboardInterrupt:  # uvicorn raises Ctrl-C again when it is through
            return

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Uploads, jobs and streams end now; uvicorn would wait for them before its lifespan tells them to."""
        self.app.state.stop()
        super().handle_exit(sig, frame)
