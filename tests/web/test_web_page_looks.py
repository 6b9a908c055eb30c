"""How the page looks and reads: on every screen, in light and dark, by keyboard, and to axe-core's rules."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from patchscaler.web.settings import Quality

for needed in ("fastapi", "uvicorn", "httpx", "jinja2"):
    pytest.importorskip(needed)
from browsing import AXE, Page, large, needs_chromium, webdriver  # noqa: E402
from serving import Server  # noqa: E402

pytestmark = needs_chromium
OpenPage = Callable[..., Page]


def test_it_works_by_keyboard_alone(open_page: OpenPage, source: Path, tmp_path: Path) -> None:
    """Every control has a name and a place in the order, and the focus is never lost."""
    page = open_page()
    page.choose(source)
    page.until(lambda: page.state() == "done")
    page.js("document.body.tabIndex = -1; document.body.focus(); window.scrollTo(0, 0)")  # the order begins here
    visited = []
    for _ in range(30):
        webdriver.ActionChains(page.driver).send_keys(webdriver.Keys.TAB).perform()
        focused = page.driver.switch_to.active_element
        visited.append(focused.get_attribute("id") or focused.get_attribute("class") or focused.get_attribute("name"))
        assert focused.tag_name == "body" or focused.accessible_name, visited
        if focused.tag_name == "body":
            break
    expected = [
        "handle",
        "show-map",
        "zoom",
        "show",
        "download",
        "remove",
        "more",
        "quality",
        "scale",
        "format",
        "denoise-automatic",
        "seed",
        "again",
    ]
    assert [name for name in visited if name in expected] == expected


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height", "phone"), [(1440, 900, False), (390, 844, True)], ids=["wide", "phone"])
def test_it_fits_the_screen_and_its_colours(
    open_page: OpenPage, source: Path, width: int, height: int, phone: bool, dark: bool
) -> None:
    page = open_page(width, height, dark, phone)
    luminance = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert (max(page.js(luminance)) < 64) is dark
    assert not page.overflows()
    page.set(Quality.fast, 0)
    page.choose(source)
    page.until(lambda: page.state() == "done")
    assert not page.overflows()
    frame, download = page.find("#frame").rect, page.find(".download")
    assert frame["x"] >= 0 and frame["x"] + frame["width"] <= width  # noqa: PT018
    assert abs(frame["width"] / frame["height"] - 61 / 45) < 0.02  # never stretched
    assert download.is_displayed() and download.rect["height"] >= 40  # noqa: PT018
    if phone:
        assert download.rect["y"] + download.rect["height"] <= height  # found without scrolling
    assert page.complaints() == []


@pytest.mark.skipif(not AXE, reason="needs axe-core: npm install axe-core; AXE_CORE=node_modules/axe-core/axe.min.js")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height", "phone"), [(1440, 900, False), (390, 844, True)], ids=["wide", "phone"])
def test_axe_finds_nothing(
    open_page: OpenPage, page_server: Server, tmp_path: Path, width: int, height: int, phone: bool, dark: bool
) -> None:
    """Contrast of 4.5 and all its other rules, before, while, after, where a file is refused, and without a server."""
    page = open_page(width, height, dark, phone)
    assert page.violations() == []
    page.set(Quality.best, 0)
    (tmp_path / "letter.jpg").write_bytes(b"Dear friend")
    page.choose(tmp_path / "letter.jpg", large(tmp_path / "large.jpg", 384), large(tmp_path / "next.jpg", 64))
    page.until(lambda: "failed" in page.states() and "running" in page.states())
    assert page.violations() == []
    page.until(lambda: page.states() == ["failed", "done", "done"])
    page.js("document.querySelectorAll('.show')[1].click(); document.querySelector('#show-map').click()")
    assert page.violations() == []
    page_server.process.send_signal(signal.SIGSTOP)
    page.until(lambda: page.find("#alarm").is_displayed())
    assert page.violations() == []
    page_server.process.send_signal(signal.SIGCONT)


def test_nothing_comes_from_another_host(open_page: OpenPage, page_server: Server) -> None:
    page = open_page()
    entries = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert entries and all(name.startswith((page_server.url, "blob:")) for name in entries)  # noqa: PT018
    policy = page_server.client.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy
