"""The page in a browser, before a server of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from browsing import Page
    from serving import Server


@pytest.fixture(scope="module")
def page_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """For uploads of 1 MB and 2 megapixels."""
    from serving import serving

    folder = tmp_path_factory.mktemp("page") / "temporary"
    with serving(tiny_model, folder, "--max-megabytes", 1, "--max-megapixels", 2) as running:
        yield running


@pytest.fixture
def open_page(page_server: "Server", tmp_path: Path) -> Iterator[Callable[..., "Page"]]:
    from browsing import Page

    pages: list[Page] = []

    def opened(width: int = 1280, height: int = 860, dark: bool = False, phone: bool = False) -> Page:
        pages.append(Page(page_server.url, tmp_path / "downloads", width, height, dark, phone))
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
