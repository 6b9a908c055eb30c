"""The page as people use it, in headless Chromium: upload, progress, slider, map, download, cancel, phone, dark."""

import base64
import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from patchscaler.cli.main import main
from patchscaler.web.settings import Quality

for needed in ("fastapi", "uvicorn", "httpx", "jinja2"):
    pytest.importorskip(needed)
from browsing import Page, large, needs_chromium, webdriver  # noqa: E402
from malformed_uploads import picture  # noqa: E402
from serving import Server  # noqa: E402

pytestmark = needs_chromium


OpenPage = Callable[..., Page]


def test_upload_progress_slider_map_and_download(
    open_page: OpenPage,
    page_server: Server,
    source: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = open_page()
    page.set(Quality.fast, 11)
    page.choose(source)
    page.until(lambda: page.state() == "done")
    assert "Done in" in page.text()
    page.until(lambda: page.shown() == [61 * 4, 45 * 4])
    assert page.js("return document.querySelector('#before').naturalWidth") == 61

    # The slider follows the pointer and the keys, and shows the old picture on its left only.
    frame = page.find("#frame")
    box = frame.rect
    pointer = webdriver.ActionChains(page.driver)
    pointer.move_to_element(page.find("#handle")).click_and_hold().move_by_offset(
        -box["width"] / 4, 0
    ).release().perform()
    handle = page.find("#handle")
    assert abs(int(handle.get_attribute("aria-valuenow")) - 25) <= 2
    handle.send_keys(webdriver.Keys.END)
    assert handle.get_attribute("aria-valuenow") == "100"
    handle.send_keys(webdriver.Keys.ARROW_LEFT)
    clip = page.js("return getComputedStyle(document.querySelector('#clip')).clipPath")
    assert handle.get_attribute("aria-valuenow") == "98"
    assert clip == "inset(0px 2% 0px 0px)"

    page.find("#show-map").click()
    opacity = "return Number(getComputedStyle(document.querySelector('#map')).opacity)"
    page.until(lambda: page.js(opacity) == 0.5)
    assert [word for word in page.find("#legend").text.split() if word.isalpha()] == ["simple", "medium", "hard"]
    painted = page.js(
        "const map = document.querySelector('#map');"
        "const { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);"
        "return data.every((value, index) => index % 4 !== 3 || value === 255)"
    )
    assert painted  # every pixel belongs to a patch

    page.find(".download").click()
    saved = tmp_path / "downloads" / "my photo_x4.png"
    page.until(saved.exists)
    expected = tmp_path / "by the command line.png"
    options = ["--quality", "fast", "--seed", 11, "--model", tiny_model, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["patchscaler", "upscale", *map(str, [source, "-o", expected, *options])])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    assert hashlib.sha256(saved.read_bytes()).digest() == hashlib.sha256(expected.read_bytes()).digest()
    assert page.complaints() == []

    assert not page_server.kept()  # the page has all of it


# Notes in the page itself what it shows, at every change: a small model is done before a driver has asked twice.
WATCH = """
window.seen = [];
const find = (name) => document.querySelector(name);
const note = () => {
  const row = find(".row");
  if (!row) return;
  const preview = Number(find("#after").src.match(/preview[?](\\d+)/)?.[1] ?? 0);
  const state = row.dataset.state;
  const [bar, text] = [row.querySelector("progress").value, row.querySelector(".text").textContent];
  window.seen.push({ state, preview, bar, text });
  if (arguments[0] && preview && state === "running") row.querySelector(".cancel").click();
};
const everything = { attributes: true, childList: true, characterData: true, subtree: true };
new MutationObserver(note).observe(document.body, everything);
"""


def test_the_coarse_picture_comes_first(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    page.set(Quality.best, 0)
    page.js(WATCH, False)
    page.choose(large(tmp_path / "large.jpg", 640))
    page.until(lambda: page.state() == "done")
    seen = [entry for entry in page.js("return window.seen") if entry["state"] == "running"]
    previews = [entry["preview"] for entry in seen if entry["preview"]]
    assert previews[0] == 1
    assert previews == sorted(previews)
    bars = [entry["bar"] for entry in seen if entry["preview"]]
    assert bars == sorted(bars)
    assert bars[0] < bars[-1] <= 1
    texts = [entry["text"] for entry in seen]
    assert any("left" in text for text in texts)
    assert any("\u00a0%" in text for text in texts)  # the number holds on to its unit
    assert not any(" %" in text or " s " in text for text in texts)


def test_a_smaller_size_is_what_the_page_was_told(open_page: OpenPage, source: Path) -> None:
    page = open_page()
    page.set(Quality.fast, 0)
    options = page.find("#scale").find_elements("css selector", "option")
    assert [option.text for option in options] == ["x1, same size", "x2", "x3", "x4"]
    options[1].click()
    page.choose(source)
    page.until(lambda: page.state() == "done")
    page.until(lambda: page.shown() == [61 * 2, 45 * 2])
    assert "122\u00a0\u00d7\u00a090" in page.text()
    assert page.find(".download").get_attribute("download") == "my photo_x2.png"
    options[0].click()
    page.find("#again").click()
    page.until(lambda: page.state() == "done" and page.shown() == [61, 45])


def test_denoise_is_automatic_until_its_box_is_unticked(open_page: OpenPage, source: Path) -> None:
    page = open_page()
    page.set(Quality.fast, 0)
    slider, box = page.find("#denoise"), page.find("#denoise-automatic")
    assert (slider.accessible_name, box.accessible_name) == ("Denoise", "Automatic denoise")
    assert box.is_selected()
    assert not slider.is_enabled()
    page.choose(source)
    page.until(lambda: page.state() == "done")
    box.click()
    shown = page.find("output[for=denoise]")
    assert shown.text == "0.5"
    slider.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert shown.text == "0.6"
    page.find("#again").click()
    page.until(lambda: page.state() == "done")
    box.click()
    assert shown.text == ""
    page.find("#again").click()
    page.until(lambda: page.state() == "done")
    asked = page.js(
        "return performance.getEntriesByType('resource').map(({ name }) => new URL(name))"
        ".filter(({ search }) => search.includes('seed')).map(({ searchParams }) => searchParams.get('denoise'))"
    )
    assert asked == [None, "0.6", None]


def test_a_picture_that_browsers_cannot_show_is_shown_all_the_same(
    open_page: OpenPage, photo: Image.Image, tmp_path: Path
) -> None:
    page = open_page()
    page.set(Quality.fast, 0)
    page.find("#format option[value=tif]").click()
    photo.save(tmp_path / "scan.tif")
    page.choose(tmp_path / "scan.tif")
    page.until(lambda: page.state() == "done")
    page.until(lambda: page.shown() == [61 * 4, 45 * 4])
    assert page.js("return document.querySelector('#before').naturalWidth") == 61


def test_a_job_can_be_cancelled_and_tried_again(open_page: OpenPage, page_server: Server, tmp_path: Path) -> None:
    page = open_page()
    page.set(Quality.best, 0)
    page.js(WATCH, True)
    page.choose(large(tmp_path / "large.png", 448))
    page.until(lambda: page.state() == "cancelled")
    assert page.text() == "Cancelled."
    page.until(lambda: page_server.client.get("/api/about").json()["unfinished"] == 0 and not page_server.kept())
    page.js("window.seen = undefined")  # an error in the observer: it cancels no more
    page.find(".retry").click()
    page.until(lambda: page.state() == "done")


def test_several_pictures_wait_in_a_list_that_one_sees(
    open_page: OpenPage, page_server: Server, tmp_path: Path
) -> None:
    page = open_page()
    page.set(Quality.fast, 0)
    paths = [large(tmp_path / f"{number}.jpg", 160 + 32 * number) for number in range(5)]
    page.choose(*paths)
    page.until(lambda: len(page.states()) == 5)
    assert "waiting" in page.states()  # not all of them are sent at once
    assert page_server.client.get("/api/about").json()["unfinished"] <= 2
    page.until(lambda: page.states() == ["done"] * 5)
    assert page.find("#queue-title").text == "Your pictures: 5 of 5 done"
    page.find("#save-all").click()
    saved = tmp_path / "downloads"
    page.until(lambda: {path.name for path in saved.glob("*.png")} == {f"{number}_x4.png" for number in range(5)})
    for number in (3, 1):
        page.js("document.querySelectorAll('.show')[arguments[0]].click()", number)
        page.until(lambda number=number: page.shown() == [4 * (160 + 32 * number)] * 2)
    page.js("document.querySelectorAll('.remove')[1].click()")
    assert len(page.states()) == 4
    assert page.js("return document.activeElement.textContent").strip() == "2.jpg"  # the focus does not get lost
    for _ in range(4):
        page.find(".remove").click()
    assert page.state() == "empty"
    assert page.js("return document.activeElement.id") == "file"


DROP = """
const [kind, content] = arguments;
const data = new DataTransfer();
const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
data.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
document.querySelector("main").dispatchEvent(event);
"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(open_page: OpenPage, photo: Image.Image, kind: str) -> None:
    page = open_page()
    page.set(Quality.fast, 0)
    file = io.BytesIO()
    photo.save(file, "PNG")
    page.js(DROP, kind, base64.b64encode(file.getvalue()).decode())
    page.until(lambda: page.state() == "done")
    assert page.find(".name").text == f"{kind}.png"


def test_refusals_are_told_in_words_of_a_person(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    whole = picture(1, 40, 40)
    texts = {"broken.png": whole[:8], "letter.jpg": b"Dear friend", "heavy.png": bytes(2 * 2**20)}
    texts |= {"nothing.png": b"", "half.png": whole[: len(whole) // 2]}
    words = {"broken.png": "not a picture", "letter.jpg": "not a picture", "heavy.png": "1\u00a0MB are allowed"}
    words |= {"nothing.png": "This file is empty.", "half.png": "Damaged or unsupported; copy it again"}
    for number, (name, content) in enumerate(texts.items(), 1):
        (tmp_path / name).write_bytes(content)
        page.choose(tmp_path / name)
        page.until(lambda number=number: page.states() == ["failed"] * number)
        assert words[name] in page.text()
        assert not {"body", "header", "413", "415"} & set(page.text().split())
    Image.new("RGB", (1500, 1500)).save(tmp_path / "many pixels.png")
    page.choose(tmp_path / "many pixels.png")
    page.until(lambda: page.states() == ["failed"] * 6)
    assert "2\u00a0megapixels" in page.text()
    assert not page.find(".retry").is_displayed()  # it would not help
    assert not page.find("#again").is_displayed()
    said = page.js("return document.querySelector('#said').textContent")
    assert said.startswith("many pixels.png: This picture is too large")
