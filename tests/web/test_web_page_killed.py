"""What docs/serve.md promises to those who use the page: a server that dies is said, and nothing is lost."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from patchscaler.web.settings import Quality

for needed in ("fastapi", "uvicorn", "httpx", "jinja2"):
    pytest.importorskip(needed)
from browsing import Page, large, needs_chromium  # noqa: E402
from malformed_uploads import picture  # noqa: E402
from serving import Server, free_port  # noqa: E402

pytestmark = needs_chromium
SAID_WITHIN = 10.0  # seconds


class Place:
    """An address where servers come and go."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder, self.port, self.count = model, folder, free_port(), 0
        self.open()

    def open(self) -> None:
        self.count += 1
        self.server = Server(self.model, self.folder / f"server {self.count}", "--port", self.port)


@pytest.fixture
def place(tiny_model: Path, tmp_path: Path) -> Iterator[Place]:
    place = Place(tiny_model, tmp_path)
    yield place
    place.server.kill()


@pytest.fixture
def page(place: Place, tmp_path: Path) -> Iterator[Page]:
    page = Page(place.server.url, tmp_path / "downloads", 1280, 860, dark=False, phone=False)
    yield page
    page.driver.quit()


def alarm(page: Page) -> str:
    return page.find("#alarm").text


def test_a_killed_server_is_said_and_its_picture_goes_on_later(place: Place, page: Page, tmp_path: Path) -> None:
    page.set(Quality.best, 3)
    page.choose(large(tmp_path / "large.jpg", 640))
    page.until(lambda: page.state() == "running")
    place.server.kill()
    page.until(lambda: alarm(page), SAID_WITHIN)
    assert "does not answer" in alarm(page)
    assert "kept in this page" in alarm(page)
    assert page.text() == "Waiting for the server"
    place.open()
    page.until(lambda: page.state() == "done")
    assert alarm(page) == ""
    page.until(lambda: page.shown() == [2560, 2560])


def test_a_server_that_hangs_is_said(place: Place, page: Page, tmp_path: Path) -> None:
    """Its connections stay open, and nothing comes."""
    page.set(Quality.fast, 3)
    page.choose(large(tmp_path / "large.jpg", 640))
    page.until(lambda: page.state() in ("queued", "running"))
    place.server.process.send_signal(signal.SIGSTOP)
    page.until(lambda: alarm(page), SAID_WITHIN)
    place.server.process.send_signal(signal.SIGCONT)
    page.until(lambda: page.state() == "done")
    assert alarm(page) == ""


def test_a_server_that_dies_while_nothing_is_done_is_said(place: Place, page: Page) -> None:
    place.server.kill()
    page.until(lambda: alarm(page), SAID_WITHIN)
    assert alarm(page) == "The server does not answer."
    place.open()
    page.until(lambda: not alarm(page))


def test_a_picture_that_the_server_does_not_survive_is_given_up(place: Place, page: Page, tmp_path: Path) -> None:
    page.set(Quality.best, 0)
    page.choose(large(tmp_path / "deadly.jpg", 900))
    for _ in range(3):
        page.until(lambda: page.state() == "running")
        place.server.kill()
        page.until(lambda: alarm(page))
        place.open()
    page.until(lambda: page.state() == "failed")
    assert page.text() == "Given up: the connection broke off three times at this picture."


def test_fifty_pictures_outlive_a_killed_server(place: Place, page: Page, tmp_path: Path) -> None:
    page.set(Quality.fast, 5)
    paths = [tmp_path / f"{number}.png" for number in range(50)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number, 16, 16 + number))
    page.choose(*paths)
    page.until(lambda: page.states().count("done") >= 5)
    place.server.kill()
    before = page.states().count("done")
    assert before < 50
    page.until(lambda: alarm(page), SAID_WITHIN)
    assert page.states().count("done") == before  # what is done stays, without the server
    place.open()
    page.until(lambda: page.states() == ["done"] * 50)
    page.find("#save-all").click()
    saved = tmp_path / "downloads"
    page.until(lambda: len(list(saved.glob("*.png"))) == 50)
    time.sleep(0.5)  # for the last one to be whole
    for number in range(50):
        with Image.open(saved / f"{number}_x4.png") as image:
            assert image.size == (4 * (16 + number), 64)
