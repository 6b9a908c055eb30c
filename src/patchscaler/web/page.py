"""The page in the browser: gradio's controls around our own stage, which works through the HTTP API.

No event of the page runs a Python function: the buttons call `static/page.js`, which posts the picture to the API,
follows the job and shows previews, result and map. So the page can do what the API allows, and nothing else.
"""

from importlib.resources import files
from typing import Any

import gradio as gr
from fastapi import FastAPI

from patchscaler.web.settings import Format, Quality

LABELS = {Quality.fast: "Fast", Quality.balanced: "Balanced", Quality.best: "Best"}
FORMAT_LABELS = {Format.png: "PNG, lossless", Format.jpg: "JPEG", Format.webp: "WebP", Format.tif: "TIFF"}
SCALES = [("x1, same size", 1), ("x2", 2), ("x3", 3), ("x4", 4)]
LARGEST_SEED = 2**53 - 1  # beyond it JavaScript's numbers are no longer exact
HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="page/page.css">
"""
LOAD = "import(new URL('page/page.js', document.baseURI)).then((page) => page.start(element));"
# The names of installed fonts: gradio's own themes load theirs from another host.
STATIC = files("patchscaler.web") / "static"
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
CODE_FONTS = ["ui-monospace", "Menlo", "Consolas", "monospace"]


def add_page(app: FastAPI) -> None:
    """Mount the page at the root of the API's app, behind all of its routes."""
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="lg", font=FONTS, font_mono=CODE_FONTS)
    theme.set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")  # readable: contrast 4.7
    # Nothing of gradio's own: no links to elsewhere, no history, no second server; uploads go to the API.
    closed = {"footer_links": [], "run_history": False, "ssr_mode": False, "max_file_size": 1}
    gr.mount_gradio_app(
        app, _build(), path="/", theme=theme, head=HEAD, favicon_path=str(STATIC / "icon.svg"), **closed
    )


def _build() -> gr.Blocks:
    with gr.Blocks(title="PatchScaler", analytics_enabled=False, fill_width=True) as blocks:
        _piece("header")
        with gr.Row(elem_id="ps-main"):
            with gr.Column(scale=3, min_width=320):
                _piece("stage", js_on_load=LOAD)
            with gr.Column(scale=1, min_width=280, elem_id="ps-side"):
                quality = gr.Radio(
                    [(LABELS[quality], quality.value) for quality in Quality],
                    value=Quality.balanced.value,
                    label="Quality",
                    info="More steps: finer detail, more time",
                    elem_id="ps-quality",
                )
                scale = gr.Dropdown(SCALES, value=SCALES[-1][1], label="Size", elem_id="ps-scale")
                seed = gr.Number(
                    0, label="Seed", info="Same seed, same result", precision=0, minimum=0, maximum=LARGEST_SEED,
                    elem_id="ps-seed",
                )  # fmt: skip
                format = gr.Dropdown(
                    [(FORMAT_LABELS[format], format.value) for format in Format],
                    value=Format.png.value,
                    label="Save as",
                    elem_id="ps-format",
                )
                _piece("result")
                run = gr.Button("Enlarge", variant="primary", elem_id="ps-run")
                cancel = gr.Button("Cancel", variant="stop", elem_id="ps-cancel")
                _piece("note")
        choices = [quality, seed, format, scale]
        run.click(None, choices, js="(...settings) => { window.patchscaler.enlarge(...settings); }")
        cancel.click(None, js="() => { window.patchscaler.cancel(); }")
    return blocks


def _piece(name: str, **options: Any) -> gr.HTML:
    """A piece of our own HTML; gradio's styles for texts stay off it."""
    html = (STATIC / f"{name}.html").read_text("utf-8")
    return gr.HTML(html, elem_id=f"ps-{name}", apply_default_css=False, **options)
