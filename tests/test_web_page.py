"""The page as people use it, in headless Chromium: upload, progress, slider, map, download, cancel, phone, dark."""

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchscaler.cli.main import main
from patchscaler.web.settings import STEPS, Quality

for needed in ("fastapi", "uvicorn", "httpx"):
    pytest.importorskip(needed)
pytest.importorskip("gradio", reason='the page needs gradio: pip install "patchscaler[web]"', exc_type=ImportError)
webdriver = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium: pip install selenium")
from serving import SECONDS, Server, serving  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page") / "temporary"
    with serving(tiny_model, folder, "--max-megabytes", 1, "--max-megapixels", 2) as running:
        yield running


class Page:
    """The page in a browser window of its own."""

    def __init__(self, server: Server, downloads: Path, width: int, height: int, dark: bool, phone: bool) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            f"--window-size={width},{height}",
        ):
            options.add_argument(argument)
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        downloads.mkdir(exist_ok=True)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.driver.set_script_timeout(SECONDS)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(server.url)
        self.until(lambda: self.js("return document.querySelector('.ps-limits')?.textContent"))

    def js(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (value := condition()):
            assert time.monotonic() < deadline, self.find("body").text
            time.sleep(0.05)
        return value

    def state(self) -> str:
        return self.js("return document.querySelector('.ps').dataset.state")

    def choose(self, path: Path) -> None:
        self.find(".ps-file").send_keys(str(path))

    def set(self, quality: Quality, seed: int) -> None:
        self.js("document.querySelector(`#ps-quality input[value=${arguments[0]}]`).click()", quality.value)
        field = self.find("#ps-seed input")
        field.clear()
        field.send_keys(str(seed))
        self.js("arguments[0].blur()", field)

    def shown(self) -> list[int]:
        """Natural size of the picture on the right of the slider."""
        return self.js("const i = document.querySelector('.ps-after'); return [i.naturalWidth, i.naturalHeight]")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def overflows(self) -> bool:
        return self.js("return document.documentElement.scrollWidth > window.innerWidth")


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(server: Server, tmp_path: Path) -> Iterator[OpenPage]:
    pages: list[Page] = []

    def opened(width: int = 1280, height: int = 860, dark: bool = False, phone: bool = False) -> Page:
        pages.append(Page(server, tmp_path / "downloads", width, height, dark, phone))
        return pages[-1]

    yield opened
    for page in pages:
        page.driver.get("about:blank")  # leaving deletes the page's job, killing the browser doesn't
        page.driver.quit()


@pytest.fixture
def source(photo: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "my photo.png"
    photo.save(path)
    return path


def large(path: Path, side: int) -> Path:
    """A picture that takes a while."""
    samples = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    Image.fromarray(samples).resize((side, side)).save(path)
    return path


def test_upload_progress_slider_map_and_download(
    open_page: OpenPage, server: Server, source: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page()
    page.set(Quality.fast, 11)
    page.choose(source)
    page.until(lambda: page.state() == "done")
    assert "Done in" in page.find(".ps-status").text
    page.until(lambda: page.shown() == [61 * 4, 45 * 4])
    assert page.js("return document.querySelector('.ps-before').naturalWidth") == 61

    # The slider follows the pointer and the keys, and shows the old picture on its left only.
    frame = page.find(".ps-frame")
    box = frame.rect
    pointer = webdriver.ActionChains(page.driver)
    pointer.move_to_element(page.find(".ps-handle")).click_and_hold().move_by_offset(
        -box["width"] / 4, 0
    ).release().perform()
    handle = page.find(".ps-handle")
    assert abs(int(handle.get_attribute("aria-valuenow")) - 25) <= 2
    handle.send_keys(webdriver.Keys.END)
    assert handle.get_attribute("aria-valuenow") == "100"
    handle.send_keys(webdriver.Keys.ARROW_LEFT)
    clip = page.js("return getComputedStyle(document.querySelector('.ps-clip')).clipPath")
    assert handle.get_attribute("aria-valuenow") == "98"
    assert clip == "inset(0px 2% 0px 0px)"

    page.find(".ps-show-map").click()
    opacity = "return Number(getComputedStyle(document.querySelector('.ps-map')).opacity)"
    page.until(lambda: page.js(opacity) == 0.5)
    assert [word for word in page.find(".ps-legend").text.split() if word.isalpha()] == ["simple", "medium", "hard"]
    painted = page.js(
        "const map = document.querySelector('.ps-map');"
        "const { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);"
        "return data.every((value, index) => index % 4 !== 3 || value === 255)"
    )
    assert painted  # every pixel belongs to a patch

    page.find(".ps-download").click()
    saved = tmp_path / "downloads" / "my photo_x4.png"
    page.until(saved.exists)
    expected = tmp_path / "by the command line.png"
    steps = ",".join(map(str, STEPS[Quality.fast]))
    options = ["--steps", steps, "--seed", 11, "--model", tiny_model, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["patchscaler", "upscale", *map(str, [source, "-o", expected, *options])])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    assert hashlib.sha256(saved.read_bytes()).digest() == hashlib.sha256(expected.read_bytes()).digest()
    assert page.complaints() == []

    # Leaving the page deletes the job and its files.
    assert server.kept()
    page.driver.get("about:blank")
    page.until(lambda: not server.kept())


# Notes in the page itself what it shows, at every change: a small model is done before a driver has asked twice.
WATCH = """
window.seen = [];
const stage = document.querySelector(".ps");
const note = () => {
  const part = (name) => stage.querySelector(`.ps-${name}`);
  const preview = Number(part("after").src.match(/preview[?](\\d+)/)?.[1] ?? 0);
  window.seen.push({
    state: stage.dataset.state, preview,
    bar: part("bar").value, text: part("text").textContent, time: part("time").textContent,
  });
  const cancel = document.querySelector("#ps-cancel");
  if (arguments[0] && preview && stage.dataset.state === "busy" && cancel.offsetParent) cancel.click();
};
new MutationObserver(note).observe(stage, { attributes: true, childList: true, characterData: true, subtree: true });
"""


def test_the_coarse_picture_comes_first(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    page.set(Quality.best, 0)
    page.js(WATCH, False)
    page.choose(large(tmp_path / "large.jpg", 1400))
    page.until(lambda: page.state() == "done")
    seen = [entry for entry in page.js("return window.seen") if entry["state"] == "busy"]
    previews = [entry["preview"] for entry in seen if entry["preview"]]
    assert previews[0] == 1
    assert max(previews) > 1
    assert previews == sorted(previews)
    bars = [entry["bar"] for entry in seen if entry["preview"]]
    assert bars == sorted(bars)
    assert bars[0] < bars[-1] <= 1
    assert any("%" in entry["text"] for entry in seen)
    assert any("left" in entry["time"] for entry in seen)


def test_a_smaller_size_is_what_the_page_was_told(open_page: OpenPage, source: Path) -> None:
    page = open_page()
    page.set(Quality.fast, 0)
    field = page.find("#ps-scale input")
    field.click()
    page.until(lambda: page.driver.find_elements("css selector", "#ps-scale [role=option]"))
    options = page.driver.find_elements("css selector", "#ps-scale [role=option]")
    assert [option.text.lstrip("✓ \n") for option in options] == ["x1, same size", "x2", "x3", "x4"]
    options[1].click()
    page.choose(source)
    page.until(lambda: page.state() == "done")
    page.until(lambda: page.shown() == [61 * 2, 45 * 2])
    assert "122 \u00d7 90 pixels" in page.find(".ps-status").text


def test_a_job_can_be_cancelled(open_page: OpenPage, server: Server, tmp_path: Path) -> None:
    page = open_page()
    page.set(Quality.best, 0)
    page.js(WATCH, True)
    page.choose(large(tmp_path / "large.png", 768))
    page.until(lambda: page.state() == "failed")
    assert page.find(".ps-text").text == "Cancelled."
    page.until(lambda: server.client.get("/api/about").json()["unfinished"] == 0 and not server.kept())


def test_refusals_are_told_in_words(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    texts = {"broken.png": b"\x89PNG\r\n\x1a\n", "letter.jpg": b"Dear friend", "heavy.png": bytes(2 * 2**20)}
    words = {"broken.png": "Not a picture", "letter.jpg": "Not a picture", "heavy.png": "1 MB are allowed"}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
        page.choose(tmp_path / name)
        page.until(lambda name=name: page.state() == "failed" and words[name] in page.find(".ps-text").text)
    Image.new("RGB", (1500, 1500)).save(tmp_path / "many pixels.png")
    page.choose(tmp_path / "many pixels.png")
    page.until(lambda: "2,000,000 are allowed" in page.find(".ps-text").text)
    page.find(".ps-new").click()
    assert page.state() == "empty"


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
    frame, download = page.find(".ps-frame").rect, page.find(".ps-download")
    assert frame["x"] >= 0 and frame["x"] + frame["width"] <= width  # noqa: PT018
    assert abs(frame["width"] / frame["height"] - 61 / 45) < 0.02  # never stretched
    assert download.is_displayed() and download.rect["height"] >= 40  # noqa: PT018
    if phone:
        assert download.rect["y"] < height  # found without scrolling
    assert page.complaints() == []


def test_nothing_comes_from_another_host_and_gradio_is_closed(open_page: OpenPage, server: Server) -> None:
    page = open_page()
    entries = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert entries and all(name.startswith((server.url, "blob:", "data:")) for name in entries)  # noqa: PT018
    client = server.client
    files = {"files": ("a.png", b"x")}
    assert client.post("/gradio_api/upload", files=files, headers={"Origin": server.url}).status_code == 404
    for path in (
        "file=/etc/passwd",
        "proxy=http://localhost/",
        "queue/data",
        "heartbeat/x",
        "deep_link",
        "runs",
        "file/etc/x",
    ):
        assert client.get(f"/gradio_api/{path}").status_code == 404
    for path in (
        "assets/../../../../etc/passwd",
        "static/..%2f..%2f..%2fetc%2fpasswd",
        "?deep_link=../../etc/passwd",
        "login",
    ):
        assert b"root:" not in client.get(f"/{path}").content
