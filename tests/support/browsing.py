"""The page in headless Chromium, for its tests."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

webdriver = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium: pip install selenium")
from patchscaler.web.settings import Quality  # noqa: E402
from serving import SECONDS  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = os.environ.get("AXE_CORE")  # axe.min.js of npm's axe-core
needs_chromium = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]


class Page:
    """The page in a browser window of its own."""

    def __init__(self, url: str, downloads: Path, width: int, height: int, dark: bool, phone: bool) -> None:
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
        # 1: several downloads at a click are allowed, as a person does when Chromium asks.
        allowed = {"profile.default_content_setting_values.automatic_downloads": 1}
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)} | allowed)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.driver.set_script_timeout(SECONDS)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(url)
        self.until(lambda: self.js("return document.querySelector('#limits')?.textContent"))

    def js(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def until(self, condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, self.find("body").text
            time.sleep(0.05)
        return value

    def state(self) -> str:
        """Of the picture that is shown."""
        return self.js("return document.body.dataset.state")

    def states(self) -> list[str]:
        return self.js("return [...document.querySelectorAll('.row')].map((row) => row.dataset.state)")

    def text(self, row: int = -1) -> str:
        """What the list says of a picture."""
        return self.js("return [...document.querySelectorAll('.row .text')].at(arguments[0]).textContent", row)

    def choose(self, *paths: Path) -> None:
        self.find("#file").send_keys("\n".join(map(str, paths)))

    def set(self, quality: Quality, seed: int) -> None:
        self.js("document.querySelector(`[name=quality][value=${arguments[0]}]`).click()", quality.value)
        field = self.find("#seed")
        field.clear()
        field.send_keys(str(seed))

    def shown(self) -> list[int]:
        """Natural size of the picture on the right of the slider."""
        return self.js("const i = document.querySelector('#after'); return [i.naturalWidth, i.naturalHeight]")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def violations(self) -> list[list[str]]:
        """What axe-core finds wrong: the rule, then the elements."""
        self.js(Path(AXE).read_text("utf-8"))
        return self.driver.execute_async_script(
            "const [done] = arguments;"
            "const said = ({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => html + failureSummary)];"
            "axe.run().then(({ violations }) => done(violations.map(said)))"
        )

    def overflows(self) -> bool:
        return self.js("return document.documentElement.scrollWidth > window.innerWidth")


def large(path: Path, side: int) -> Path:
    """A picture that takes a while."""
    samples = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    Image.fromarray(samples).resize((side, side)).save(path)
    return path
