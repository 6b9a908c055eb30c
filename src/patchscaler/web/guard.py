"""What every request passes: who may ask, for what, and what the browser may do with the answer."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OURS = ("/api/", "/page/", "/openapi.json")
# What the page's browser needs of gradio. Its uploads, files, proxies, queues and calls stay closed: the page does its
# work through our API.
GRADIO_FILES = ("/assets/", "/static/", "/svelte/")
GRADIO_PATHS = frozenset({"/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/pwa_icon"})
GRADIO_API = frozenset({"/gradio_api/info", "/gradio_api/startup-events", "/gradio_api/theme.css"})
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Nothing is fetched from another host, whatever gradio's own page asks for.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
        "base-uri 'self'; form-action 'self'; object-src 'none'"
    ),
}


class Guard:
    """ASGI middleware. `loopback`: the server serves this computer only, and a request must name it as its host, so
    that no web site can reach it by pointing a name of its own here (DNS rebinding)."""

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        self.app = app
        self.loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await JSONResponse({"detail": refusal[1]}, status_code=refusal[0])(scope, receive, send_guarded)
            return
        if not scope["path"].startswith(OURS):
            scope = {**scope, "query_string": b""}  # gradio reads more of it than the page needs
        await self.app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self.loopback and not _names_this_computer(host):
            return 403, "this server serves its own computer only; call it as localhost or 127.0.0.1"
        if scope["method"] not in SAFE_METHODS:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, "a page of another site may not do this"
            if not path.startswith(OURS):
                return 404, "Not Found"
        if path.startswith(OURS) or path in GRADIO_PATHS | GRADIO_API:
            return None
        return None if path.startswith(GRADIO_FILES) and ".." not in path else (404, "Not Found")


def _names_this_computer(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
