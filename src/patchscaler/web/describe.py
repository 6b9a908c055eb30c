"""The API's description of itself, /openapi.json: what FastAPI can't know of bodies, refusals and links."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from patchscaler.web.schemas import Problem
from patchscaler.web.settings import MEDIA_TYPES

BINARY = {"schema": {"type": "string", "format": "binary"}}
DESCRIPTION = """Enlarges pictures, up to x4. `POST /api/jobs` with the picture as the body answers with a job at once;
then poll `GET /api/jobs/{id}` or read the server-sent events of `GET /api/jobs/{id}/events`, and get
`/api/jobs/{id}/result`. Jobs are deleted some minutes after they are finished, or by `DELETE /api/jobs/{id}`.
Errors are `{"detail": "one line"}`. Every GET answers HEAD, too."""
REASONS = {
    400: "The body is empty or broken off",
    403: "A page of another site asks, or under another host name",
    404: "No such job, or what it no longer has",
    408: "The upload takes too long",
    409: "The job is not so far, or has failed",
    413: "Too many bytes or pixels",
    415: "Not a picture that can be opened",
    422: "An argument out of range, or a damaged picture",
    503: "The queue is full",
}
OF_A_JOB = ("get_job", "delete_job", "follow_job", "get_map", "get_preview", "get_input", "get_result")

Responses = dict[int | str, dict[str, Any]]


def problems(*codes: int) -> Responses:
    return {code: {"model": Problem, "description": REASONS[code]} for code in codes}


def files_of(*media_types: str, description: str) -> Responses:
    return {200: {"description": description, "content": dict.fromkeys(media_types, BINARY)}}


# The media type that clients know how to send; the server looks at the bytes alone.
PICTURE = {
    "requestBody": {
        "required": True,
        "description": "The picture itself, no form, whatever the content type says",
        "content": {"application/octet-stream": BINARY},
    }
}
CREATED: Responses = {
    202: {
        "description": "The job, which waits for its turn",
        "headers": {"Location": {"description": "path of the job", "schema": {"type": "string"}}},
        "links": {name: {"operationId": name, "parameters": {"id": "$response.body#/id"}} for name in OF_A_JOB},
    }
}
FULL: Responses = problems(503)
FULL[503]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
# Of no type: in OpenAPI 3.1 the schema of a stream is that of one event, for generators of clients that of the text.
EVENT = {"description": "event: status; data: a JobStatus as JSON"}
EVENTS: Responses = {
    200: {
        "description": "Server-sent events, the data of each a JobStatus as JSON",
        "content": {"text/event-stream": {"schema": EVENT}},
    }
}
RESULT = files_of(*MEDIA_TYPES.values(), description="The picture, in the format that the job was given")
WEBP = files_of("image/webp", description="WebP")


def describe(app: FastAPI) -> None:
    """Let `app` describe its routes, without the refusals that FastAPI adds for arguments that can't be wrong."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            for path in described["paths"].values():
                for operation in path.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
            for name in ("HTTPValidationError", "ValidationError"):
                described["components"]["schemas"].pop(name, None)
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
