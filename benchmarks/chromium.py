"""Headless Chromium on pages that this machine serves, for the benchmark of the static page and the pages' tests.

It is the system's own `chromium`, which `chromedriver` drives. No name resolves in it, so that whatever a page might
ask for elsewhere fails, and it keeps a log of its network, which says what was asked for.
"""

import base64
import functools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
# They give it a WebGPU whose card is a program.
SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
# Heights of a phone's and of a desktop's screen by their widths, pixels.
SCREENS = {390: 844, 1440: 900}
# They isolate a page, which lets it use threads.
ISOLATING = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
NETWORK_LOG = "network.json"
# Seconds for whatever a page does.
PATIENCE = 1200


class FileHandler(SimpleHTTPRequestHandler):
    """Serves a folder in silence, with the headers of its server, which counts the bytes of the files."""

    def end_headers(self) -> None:
        """Send the server's headers after the file's own."""
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:
        """Send a file and note its size."""
        self.server.sizes.append(os.fstat(source.fileno()).st_size)
        super().copyfile(source, outputfile)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class FileServer(ThreadingHTTPServer):
    """A plain server of files on a free port of this machine.

    Attributes:
        headers: sent with every file.
        sizes: of the files that were sent, bytes.
        origin: the address, without a slash at its end.
    """

    def __init__(self, folder: Path, headers: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(FileHandler, directory=folder))
        self.headers, self.sizes, self.origin = headers, [], f"http://127.0.0.1:{self.server_port}"


def headers_for(width: int) -> dict[str, str]:
    """Return what a page is served with: it is isolated on a desktop; on a phone it is not, and has one thread.

    Args:
        width: of the screen, one of `SCREENS`.
    """
    return ISOLATING if width > 500 else {}


@contextmanager
def serving(folder: Path, headers: Mapping[str, str]) -> Iterator[FileServer]:
    """Serve a folder's files.

    Args:
        folder: of the files.
        headers: sent with every file.
    """
    with FileServer(folder, headers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def open_chromium(width: int, place: Path, flags: Sequence[str] = ()) -> webdriver.Chrome:
    """Open Chromium with the screen of a phone or a desktop; it ends with its `with`.

    Args:
        width: of the screen, one of `SCREENS`.
        place: folder for its profile and the log of its network.
        flags: given to it beside `FLAGS`.

    Raises:
        ValueError: this machine has no Chromium, or nothing that drives it.
    """
    if not (CHROMIUM and CHROMEDRIVER):
        raise ValueError(
            f"`chromium` and `chromedriver` must be on the PATH, got {CHROMIUM} and {CHROMEDRIVER}; install both"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={place / 'profile'}", f"--log-net-log={place / NETWORK_LOG}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(CHROMEDRIVER), options=options)
    driver.set_script_timeout(PATIENCE)
    screen = {"width": width, "height": SCREENS[width], "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    return driver


def wait(condition: Callable[[], Any], driver: webdriver.Chrome) -> Any:
    """Wait until a condition holds, and return what it gave."""
    return WebDriverWait(driver, PATIENCE, 0.1).until(lambda _: condition())


def take_screenshot(driver: webdriver.Chrome, path: Path) -> None:
    """Keep a picture of the whole page, as wide as the screen.

    Args:
        driver: shows the page.
        path: PNG file to write.
    """
    height = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]["height"]
    clip = {"x": 0, "y": 0, "width": driver.execute_script("return innerWidth"), "height": height, "scale": 1}
    picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(picture["data"]))


def read_requests(place: Path, origin: str) -> list[str]:
    """Return the addresses that the pages of an origin and their workers asked for, cached ones too.

    What drives Chromium does not hear of the requests of workers, and Chromium has requests of its own; its log has
    all of them, with their origins.

    Args:
        place: folder that was given to a Chromium that has ended.
        origin: as `http://host:port`.
    """
    log = json.loads((place / NETWORK_LOG).read_text(encoding="utf-8"))
    begun = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = (event.get("params", {}) for event in log["events"] if event["type"] == begun)
    return [job["url"] for job in jobs if job.get("initiator") == origin]


@dataclass(frozen=True)
class StaticPage:
    """The built static page.

    Attributes:
        driver: a Chromium.
        address: where the page is served.
    """

    driver: webdriver.Chrome
    address: str

    def open(self) -> None:
        """Open the page; the network goes on loading."""
        self.driver.get(f"{self.address}/")

    def one(self, name: str) -> WebElement:
        """Return the element of an id."""
        return self.driver.find_element(By.ID, name)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds, and return what it gave."""
        return wait(condition, self.driver)

    def wait_until_ready(self) -> str:
        """Wait until the network is loaded; return what runs it."""
        self.wait(lambda: self.one("engine").text.startswith("Ready"))
        return self.one("engine").text.removeprefix("Ready: ")

    def upload(self, path: Path) -> None:
        """Choose a file."""
        self.one("file").send_keys(str(path))

    def restore(self, path: Path) -> None:
        """Choose a file and wait until it is restored, even if it was before."""
        status = self.one("status")
        self.driver.execute_script("arguments[0].textContent = ''", status)
        self.upload(path)
        self.wait(lambda: status.get_attribute("textContent") == f"{path.name} is restored")

    def pixels(self, canvas: str) -> np.ndarray:
        """Return the levels that a canvas holds, (H, W, 3), uint8.

        Args:
            canvas: id of the element, `before` or `after`.
        """
        script = """const canvas = document.getElementById(arguments[0]), context = canvas.getContext("2d");
        const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
        let text = ""; for (let i = 0; i < data.length; i += 8192)
          text += String.fromCharCode(...data.subarray(i, i + 8192));
        return [canvas.height, canvas.width, btoa(text)];"""
        height, width, text = self.driver.execute_script(script, canvas)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3]
