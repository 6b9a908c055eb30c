"""HEAD for whatever answers GET, and 405 for the rest."""

from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Answered(Exception):
    """The head is sent: nothing needs to be read, and no stream to be followed, for a body that nobody gets."""


class Methods:
    """ASGI middleware. HEAD is GET without its body; a 405 names all methods of a path, not only those of the first
    route that has it, as the router does. Mounted applications see to themselves."""

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self.app = app
        self.router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = self._allowed(scope) if scope["type"] == "http" else set()
        if allowed and scope["method"] not in allowed:
            answer = JSONResponse(
                {"detail": "Method Not Allowed"}, status_code=405, headers={"Allow": ", ".join(sorted(allowed))}
            )
            await answer(scope, receive, send)
        elif allowed and scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _allowed(self, scope: Scope) -> set[str]:
        allowed = {
            method
            for route in self.router.routes
            if route.matches(scope)[0] is not Match.NONE
            for method in getattr(route, "methods", None) or ()
        }
        return allowed | {"HEAD"} if "GET" in allowed else allowed

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                raise _Answered

        with suppress(_Answered):
            await self.app({**scope, "method": "GET"}, receive, send_start)
