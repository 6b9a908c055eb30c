"""The page's HTML without a browser: a control for every option, made of its field alone, and what links show of it."""

from typing import Annotated, Any

import pytest
from pydantic import Field

pytest.importorskip("fastapi")
pytest.importorskip("jinja2")
httpx = pytest.importorskip("httpx")
from fastapi import FastAPI  # noqa: E402

from patchscaler.web import page  # noqa: E402
from patchscaler.web.settings import Control, Format, Options, Quality  # noqa: E402


async def rendered(monkeypatch: pytest.MonkeyPatch, options: Any = Options, **headers: str) -> str:
    monkeypatch.setattr(page, "Options", options)
    app = FastAPI()
    page.add_page(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pictures.example:81/") as client:
        answer = await client.get("/", headers=headers)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_every_option_has_its_control_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    html = await rendered(monkeypatch)
    for quality in Quality:
        checked = " checked" if quality is Quality.balanced else ""
        assert f'<input type="radio" name="quality" value="{quality.value}"{checked}>' in html
    assert '<option value="4" selected>x4</option>' in html
    assert all(f'<option value="{format.value}"' in html for format in Format)
    assert '<input id="seed" name="seed" type="number" value="0" required' in html
    assert '<input type="checkbox" name="wrap" value="true" aria-describedby="wrap-hint"> Texture that tiles' in html
    # Nothing but automatic stands for the gate's choice: no value of the slider does.
    slider = html[html.index('<input id="denoise"') :].split(">")[0].split()
    assert "disabled" in slider
    assert not [word for word in slider if word.startswith("value=")]
    box = html[html.index('<input type="checkbox" id="denoise-automatic"') :].split(">")[0]
    assert ' checked aria-label="Automatic denoise"' in box


@pytest.mark.parametrize(("asked", "level"), [({}, None), ({"denoise": "null"}, None), ({"denoise": 0.5}, 0.5)])
def test_a_denoise_that_is_left_out_is_left_to_the_gate(asked: dict[str, Any], level: float | None) -> None:
    assert Options(**asked).denoise == Options(**asked).call["denoise"] == level


@pytest.mark.anyio
async def test_one_more_option_is_one_more_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field with a control is all that the API, the job and the page need."""

    class More(Options):
        strength: Annotated[float, Control("Strength", "How much", step=0.05), Field(ge=0, le=1)] = 0.25

    html = await rendered(monkeypatch, More)
    assert '<label for="strength">Strength</label>' in html
    slider = html[html.index('<input id="strength"') :].split(">")[0].split()
    assert {'type="range"', 'value="0.25"', 'step="0.05"', 'min="0"', 'max="1"'} <= set(slider)
    assert '<output for="strength">0.25</output>' in html
    assert More(strength=0.5).call == Options().call | {"strength": 0.5}


@pytest.mark.anyio
async def test_a_link_to_the_page_shows_our_words_and_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    html = await rendered(monkeypatch)
    assert '<meta property="og:title" content="PatchScaler: photos up to four times as large">' in html
    assert '<meta property="og:image" content="http://pictures.example:81/page/share.jpg">' in html
    assert (page.STATIC / "share.jpg").is_file()
    assert "<script>" not in await rendered(monkeypatch, host='"><script>')
