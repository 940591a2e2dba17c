"""Headless Chromium restores pictures on the static page, which a plain server of files offers."""

import base64
import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import build_static
import numpy as np
import pytest
from restoration_page.report import name_kind
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from dpmambair.shipped import SHIPPED
from modeling_dpmambair import Restorer
from tests.demo.conftest import ROOT
from tests.demo.test_browser import CHROMEDRIVER, CHROMIUM, FLAGS, SIZES
from tests.demo.test_browser import pytestmark as needs_chromium
from tests.restoring import photograph, read, save

pytestmark = needs_chromium
# No name resolves, so that whatever the page might ask for elsewhere fails.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
ISOLATING = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
PATIENCE = 300
TRANSFER = 20 * 10**6


class FileHandler(SimpleHTTPRequestHandler):
    """Serves files with further headers, in silence."""

    headers_sent = {}

    def end_headers(self):
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The built page."""
    place = tmp_path_factory.mktemp("static") / "page"
    build_static.build(place, SHIPPED)
    return place


@pytest.fixture(scope="module")
def restorer():
    return Restorer.from_pretrained(SHIPPED, device="cpu", dtype="float32")


class Visit:
    """A Chromium of one width on the page, which is served with some headers."""

    def __init__(self, folder, profile, width=1440, headers=()):
        handler = type("Handler", (FileHandler,), {"headers_sent": dict(headers)})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, OFFLINE, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver, self.width = webdriver.Chrome(service=Service(CHROMEDRIVER), options=options), width
        self.driver.set_script_timeout(PATIENCE)
        screen = {"width": width, "height": SIZES[width], "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get(f"http://127.0.0.1:{self.server.server_port}/")
        self.wait(lambda: self.one("engine").text.startswith("Ready"))

    def one(self, name):
        return self.driver.find_element(By.ID, name)

    def wait(self, condition):
        return WebDriverWait(self.driver, PATIENCE, 0.1).until(lambda _: condition())

    def upload(self, path):
        self.one("file").send_keys(str(path))

    def restore(self, path):
        self.upload(path)
        self.wait(lambda: self.one("status").get_attribute("textContent") == f"{path.name} is restored")

    def pixels(self, canvas):
        """Return the levels that a canvas holds, (H, W, 3)."""
        script = """const canvas = document.getElementById(arguments[0]), context = canvas.getContext("2d");
        const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
        let text = ""; for (let i = 0; i < data.length; i += 8192)
          text += String.fromCharCode(...data.subarray(i, i + 8192));
        return [canvas.height, canvas.width, btoa(text)];"""
        height, width, text = self.driver.execute_script(script, canvas)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3]

    def download(self):
        """Return name and bytes of the file that the button offers."""
        self.wait(lambda: self.one("download").get_attribute("href"))
        script = """const done = arguments[1]; fetch(document.getElementById(arguments[0]).href)
        .then((r) => r.blob()).then((b) => { const reader = new FileReader();
          reader.onload = () => done(reader.result.split(",")[1]); reader.readAsDataURL(b); })"""
        content = self.driver.execute_async_script(script, "download")
        return self.one("download").get_attribute("download"), base64.b64decode(content)

    def set_strength(self, value):
        script = """const slider = document.getElementById("strength"); slider.value = arguments[0];
        slider.dispatchEvent(new Event("input"));"""
        self.driver.execute_script(script, value)
        self.wait(lambda: self.one("strength-value").text == f"{value:.2f}")

    def take_screenshot(self, place, name):
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": self.width, "height": size["height"], "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        (place / f"{name}_{self.width}.png").write_bytes(base64.b64decode(picture["data"]))

    def requests(self):
        """Return what was asked for, and how many bytes came."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
        received = (each["params"] for each in events if each["method"] == "Network.loadingFinished")
        return sent, sum(each["encodedDataLength"] for each in received)

    def leave(self):
        self.driver.quit()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module", params=SIZES, ids=lambda width: f"{width}px")
def visit(request, folder, tmp_path_factory):
    """A phone without isolation, so with one thread, and a desktop with it."""
    headers = ISOLATING if request.param > 500 else {}
    visit = Visit(folder, tmp_path_factory.mktemp("profile"), request.param, headers)
    yield visit
    visit.leave()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture of 512 x 512 pixels."""
    place = tmp_path_factory.mktemp("in") / "mine.png"
    return save(place, read(ROOT / "examples" / "mixed.png").convert("RGB").resize((512, 512)))


def difference(found, expected):
    return np.abs(found.astype(int) - np.asarray(expected.convert("RGB"), int)).max()


def test_page_is_small_and_asks_nobody_else(visit):
    sent, received = visit.requests()
    assert {urlsplit(url).hostname for url in sent if url.startswith("http")} == {"127.0.0.1"}
    assert received < TRANSFER
    assert sum(path.stat().st_size for path in build_static.PAGE.rglob("*")) < TRANSFER


def test_threads_run_where_the_host_isolates_the_page_and_one_does_elsewhere(visit):
    is_isolated = visit.driver.execute_script("return crossOriginIsolated")
    assert is_isolated == (visit.width > 500)
    count = visit.driver.execute_script("return navigator.hardwareConcurrency") if is_isolated else 1
    assert visit.one("engine").text == f"Ready: WebAssembly, {count} thread{'s' if count > 1 else ''}"


def test_opening_page_fits_the_screen(visit, screenshots):
    assert visit.driver.execute_script("return document.documentElement.scrollWidth") <= visit.width
    assert len(visit.driver.find_elements(By.CSS_SELECTOR, "#examples li")) == 8
    visit.take_screenshot(screenshots, "static_opening")


def test_picture_is_restored_as_eager_does_described_and_offered(visit, restorer, picture, tmp_path, screenshots):
    visit.restore(picture)
    assert difference(visit.pixels("before"), read(picture)) == 0
    expected = restorer(picture)
    assert difference(visit.pixels("after"), expected) <= 1
    assert difference(np.asarray(expected), read(picture)) > 50
    name, content = visit.download()
    assert name == "mine-restored.png"
    (tmp_path / name).write_bytes(content)
    assert difference(np.asarray(read(tmp_path / name).convert("RGB")), expected) <= 1
    said = restorer.model.describe(restorer.processor(read(picture), return_tensors="pt")["pixel_values"])
    kinds = restorer.model.config.extractor_config.degradations
    told = zip(kinds, said.presence[0].tolist(), said.severity[0].tolist(), strict=True)
    shares = {name_kind(kind): (presence, severity) for kind, presence, severity in told}
    rows = [row.text.split() for row in visit.driver.find_elements(By.CSS_SELECTOR, "#found tr")]
    assert {" ".join(row[:-2]) for row in rows} == set(shares)
    for *kind, presence, severity in rows:
        told = [float(each.rstrip("%")) / 100 for each in (presence, severity)]
        assert told == pytest.approx(shares[" ".join(kind)], abs=0.011)
    assert visit.driver.execute_script("return document.documentElement.scrollWidth") <= visit.width
    visit.take_screenshot(screenshots, "static_restored")


def test_strength_zero_is_the_picture_itself(visit, picture, restorer):
    visit.restore(picture)
    visit.set_strength(0)
    visit.wait(lambda: difference(visit.pixels("after"), read(picture)) == 0)
    visit.set_strength(0.5)
    visit.wait(lambda: difference(visit.pixels("after"), restorer(picture, strength=0.5)) <= 1)
    visit.set_strength(1)


def test_slider_moves_by_the_keyboard(visit, picture):
    visit.restore(picture)
    split = visit.one("split")
    assert split.get_attribute("aria-label")
    start = visit.one("handle").rect["x"]
    split.send_keys(Keys.HOME)
    visit.wait(lambda: visit.one("handle").rect["x"] < start - 50)


def test_grey_jpeg_comes_back_grey_and_as_jpeg(visit, tmp_path):
    path = save(tmp_path / "in" / "grey.jpg", photograph((96, 64)).convert("L"))
    visit.restore(path)
    after = visit.pixels("after")
    assert (after[..., :1] == after).all()
    name, content = visit.download()
    assert name == "grey-restored.jpg"
    assert content.startswith(b"\xff\xd8\xff")


def test_bad_file_gets_a_clear_message_and_the_former_picture_stays(visit, picture, tmp_path, screenshots):
    visit.restore(picture)
    bad = tmp_path / "text.jpg"
    bad.write_text("this is no picture")
    visit.upload(bad)
    visit.wait(lambda: visit.one("message").is_displayed())
    assert visit.one("message").text == "text.jpg is not a picture that this browser can read."
    assert visit.one("download").is_displayed()
    visit.take_screenshot(screenshots, "static_bad_file")
    visit.restore(picture)
    assert not visit.one("message").is_displayed()


def test_large_picture_tells_its_progress_can_be_cancelled_and_agrees_in_tiles(visit, restorer, tmp_path, screenshots):
    if visit.width < 500:
        pytest.skip("the desktop does it")
    large = read(ROOT / "examples" / "rain.png").convert("RGB").resize((1024, 1200))
    path = save(tmp_path / "in" / "large.png", large)
    visit.upload(path)
    visit.wait(lambda: "step 1 of" in visit.one("doing").text)
    visit.take_screenshot(screenshots, "static_working")
    visit.one("cancel").click()
    visit.wait(lambda: not visit.one("veil").is_displayed())
    visit.restore(path)
    assert difference(visit.pixels("after"), restorer(path)) <= 1


def test_nothing_went_wrong_on_the_way(visit):
    entries = visit.driver.get_log("browser")
    assert [entry["message"] for entry in entries if entry["level"] == "SEVERE"] == []
