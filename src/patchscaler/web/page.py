"""The page in the browser: one HTML file, whose controls are made of the job's options, and our own static files.

The page does its work through the HTTP API, so it can do what the API allows, and nothing else.
"""

from importlib.resources import files
from typing import Any

import annotated_types
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment
from pydantic.fields import FieldInfo

from patchscaler.web.settings import Control, Options

STATIC = files("patchscaler.web") / "static"
RADIOS = 3  # choices that are all seen at once; more are a list


def add_page(app: FastAPI) -> None:
    """Serve the page at the root of the API's app."""
    source = (files("patchscaler.web") / "page.html").read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    controls = [describe_control(name, field) for name, field in Options.model_fields.items()]

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(template.render(controls=controls, here=str(request.base_url)))

    app.mount("/page", StaticFiles(directory=str(STATIC)))


def describe_control(name: str, field: FieldInfo) -> dict[str, Any]:
    """What the template needs to know of an option: texts, bounds, kind ("radio", "select", "checkbox", "range",
    "number"). One without a default, None, has a box that leaves it to the program."""
    (control,) = (item for item in field.metadata if isinstance(item, Control))
    bounds = {type(item): item for item in field.metadata}
    described = {"name": name, "label": control.label, "hint": control.hint, "value": field.default}
    if control.choices:
        kind = "radio" if len(control.choices) <= RADIOS else "select"
        return described | {"kind": kind, "choices": control.choices}
    if field.annotation is bool:
        return described | {"kind": "checkbox"}
    least, most = bounds.get(annotated_types.Ge), bounds.get(annotated_types.Le)
    return described | {
        "kind": "number" if control.step is None else "range",
        "automatic": field.default is None,
        "step": control.step or 1,
        "least": least.ge if least else None,
        "most": most.le if most else None,
    }
