"""Headless Chromium restores pictures on the static page, which a plain server of files offers."""

import base64
import re
import shutil

import build_static
import numpy as np
import pytest
from restoration_page.report import name_kind
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.browser import make_picture
from benchmarks.chromium import (
    SCREENS,
    SOFTWARE_WEBGPU,
    StaticPage,
    headers_for,
    open_chromium,
    read_requests,
    serving,
    take_screenshot,
)
from dpmambair.shipped import ATTRIBUTION, SHIPPED
from modeling_dpmambair import Restorer
from tests.chromium import needs_chromium
from tests.demo.conftest import ROOT
from tests.restoring import photograph, read, save

pytestmark = [pytest.mark.slow, needs_chromium]
# Of all that a visitor may ever load, bytes.
TRANSFER = 20 * 10**6
# By which the page chooses between engines that agree.
SPEED = " && fast.milliseconds < slow.milliseconds"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The built page."""
    place = tmp_path_factory.mktemp("static") / "page"
    build_static.build(place, SHIPPED)
    return place


@pytest.fixture(scope="module")
def restorer():
    return Restorer.from_pretrained(SHIPPED, device="cpu", dtype="float32")


class Visit(StaticPage):
    """What a visitor does on the page beside restoring."""

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

    def note_progress(self):
        """Return what the page has said of its progress since the last call."""
        script = """if (!window.said) new MutationObserver(() => window.said.push(arguments[0].textContent))
          .observe(arguments[0], {childList: true});
        const said = window.said; window.said = []; return said;"""
        return self.driver.execute_script(script, self.one("doing"))

    def content_width(self):
        return self.driver.execute_script("return document.documentElement.scrollWidth")


@pytest.fixture(scope="module", params=SCREENS, ids=lambda width: f"{width}px")
def width(request):
    return request.param


@pytest.fixture(scope="module")
def visit(width, folder, tmp_path_factory):
    with (
        serving(folder, headers_for(width)) as server,
        open_chromium(width, tmp_path_factory.mktemp("chromium")) as driver,
    ):
        visit = Visit(driver, server.origin)
        visit.open()
        visit.wait_until_ready()
        yield visit


@pytest.fixture(scope="module")
def shoot(visit, width, screenshots):
    """Keep a picture of the page under a name."""
    return lambda name: take_screenshot(visit.driver, screenshots / f"static_{name}_{width}.png")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture of 512 x 512 pixels."""
    place = tmp_path_factory.mktemp("in") / "mine.png"
    return save(place, read(ROOT / "examples" / "low_light.png").convert("RGB").resize((512, 512)))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A picture of two megapixels."""
    return make_picture((1632, 1224), tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def restored_large(restorer, large):
    return restorer(large)


def difference(found, expected):
    return np.abs(found.astype(int) - np.asarray(expected.convert("RGB"), int)).max()


def test_page_names_the_authors_of_the_photographs(folder):
    assert (folder / "network" / ATTRIBUTION).read_bytes() == (SHIPPED / ATTRIBUTION).read_bytes()


def test_page_is_small_and_asks_nobody_else(folder, width, picture, tmp_path):
    with serving(folder, headers_for(width)) as server:
        with open_chromium(width, tmp_path) as driver:
            page = StaticPage(driver, server.origin)
            page.open()
            page.restore(picture)
        asked = read_requests(tmp_path, server.origin)
    assert {f"{server.origin}/{name}" for name in ("page.js", "engine.js", "network/restore.onnx")} <= set(asked)
    assert [url for url in asked if not url.startswith((f"{server.origin}/", "blob:", "data:"))] == []
    assert (folder / "network/restore.onnx").stat().st_size < sum(server.sizes) < TRANSFER
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < TRANSFER


def test_threads_run_where_the_host_isolates_the_page_and_one_does_elsewhere(visit, width):
    is_isolated = visit.driver.execute_script("return crossOriginIsolated")
    assert is_isolated == (width > 500)
    count = visit.driver.execute_script("return navigator.hardwareConcurrency") if is_isolated else 1
    assert visit.one("engine").text == f"Ready: WebAssembly, {count} thread{'s' if count > 1 else ''}"


def test_opening_page_fits_the_screen(visit, width, shoot):
    assert visit.content_width() <= width
    assert len(visit.driver.find_elements(By.CSS_SELECTOR, "#examples img")) == 8
    shoot("opening")


def test_picture_is_restored_as_eager_does_described_and_offered(visit, width, restorer, picture, tmp_path, shoot):
    visit.restore(picture)
    assert difference(visit.pixels("before"), read(picture)) == 0
    expected = restorer(picture)
    assert difference(visit.pixels("after"), expected) <= 1
    assert difference(np.asarray(expected), read(picture)) > 20
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
    assert visit.content_width() <= width
    shoot("restored")


def test_strength_zero_is_the_picture_itself(visit, picture, restorer):
    hint = visit.one(visit.one("strength").get_attribute("aria-describedby"))
    assert hint.get_attribute("textContent").startswith("0 leaves the picture as it was, 1 restores it")
    visit.restore(picture)
    visit.set_strength(0)
    visit.wait(lambda: difference(visit.pixels("after"), read(picture)) == 0)
    visit.set_strength(0.5)
    visit.wait(lambda: difference(visit.pixels("after"), restorer(picture, strength=0.5)) <= 1)
    visit.set_strength(1)


def test_slider_moves_by_the_keyboard(visit, picture):
    visit.restore(picture)
    split = visit.one("split")
    assert visit.driver.switch_to.active_element == split
    assert split.get_attribute("aria-label")
    script = "return ['::before', '::after'].map((part) => parseFloat(getComputedStyle(arguments[0], part).left))"
    handle, width = visit.one("handle"), visit.one("frame").rect["width"]
    line, knob = visit.driver.execute_script(script, handle)
    assert (line, knob) == pytest.approx((width / 2, width / 2), abs=1)
    split.send_keys(Keys.HOME)
    visit.wait(lambda: visit.driver.execute_script(script, handle)[0] == 0)
    assert 21 <= visit.driver.execute_script(script, handle)[1] < 50  # the knob stays whole


def test_grey_jpeg_comes_back_grey_and_as_jpeg(visit, tmp_path):
    path = save(tmp_path / "in" / "grey.jpg", photograph((96, 64)).convert("L"))
    visit.restore(path)
    after = visit.pixels("after")
    assert (after[..., :1] == after).all()
    name, content = visit.download()
    assert name == "grey-restored.jpg"
    assert content.startswith(b"\xff\xd8\xff")


def test_bad_file_gets_a_clear_message_and_the_former_picture_stays(visit, picture, tmp_path, shoot):
    visit.restore(picture)
    bad = tmp_path / "text.jpg"
    bad.write_text("this is no picture")
    visit.upload(bad)
    visit.wait(lambda: visit.one("message").is_displayed())
    assert visit.one("message").text == "text.jpg is not a picture that this browser can read."
    assert visit.one("download").is_displayed()
    shoot("bad_file")
    visit.restore(picture)
    assert not visit.one("message").is_displayed()


def test_two_megapixels_tell_their_progress_can_be_cancelled_and_agree_in_tiles(visit, large, restored_large, shoot):
    visit.upload(large)
    visit.wait(lambda: "%" in visit.one("doing").text)
    shoot("working")
    visit.one("cancel").click()
    visit.wait(lambda: not visit.one("veil").is_displayed())
    visit.note_progress()
    visit.restore(large)
    said = visit.note_progress()
    assert set(said[:2]) <= {"Loading the network", "Restoring"}
    form = r"Restoring: (\d+)%(?:, about (?:a minute|\d+ minutes) left)?"
    shares = [int(re.fullmatch(form, each)[1]) for each in said if "%" in each]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert len(shares) >= 8
    assert difference(visit.pixels("after"), restored_large) <= 1


def test_picture_that_is_chosen_last_is_restored_whatever_is_read_first(visit, picture, tmp_path):
    slow = make_picture((120, 88), tmp_path)
    script = """const read = window.createImageBitmap; window.read = 0;
    window.createImageBitmap = async (file) => { const bitmap = await read(file);
      if (file.name === arguments[0]) await new Promise((done) => setTimeout(done, 3000));
      window.read++; return bitmap; };"""
    visit.driver.execute_script(script, slow.name)
    visit.upload(slow)
    visit.restore(picture)
    visit.wait(lambda: visit.driver.execute_script("return window.read") == 2)
    assert visit.one("caption").text.startswith(picture.name)
    assert not visit.one("veil").is_displayed()


@pytest.fixture(scope="module")
def broken(folder, tmp_path_factory):
    """A page that may be damaged, its folder, and a small picture."""
    place = tmp_path_factory.mktemp("broken")
    page = shutil.copytree(folder, place / "page")
    with serving(page, headers_for(390)) as server, open_chromium(390, place) as driver:
        yield StaticPage(driver, server.origin), page, make_picture((120, 88), place)


def open_anew(visit):
    """Open the page as a browser that has kept nothing of it."""
    visit.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    visit.open()


@pytest.mark.parametrize("lost", ["engine.js", "network/restore.onnx", "network/parts.json"])
def test_lost_request_is_told_and_the_next_picture_tries_again(broken, lost):
    visit, page, picture = broken
    (page / lost).rename(page / "away")
    open_anew(visit)
    visit.wait(lambda: visit.one("message").is_displayed())
    expected = "The network could not be loaded. Check the connection; choose a picture to try again."
    assert visit.one("message").text == expected
    assert visit.one("engine").text == "The network is not loaded"
    (page / "away").rename(page / lost)
    visit.restore(picture)
    assert not visit.one("message").is_displayed()
    assert visit.one("engine").text.startswith("Ready")


def test_lost_examples_are_told(broken):
    visit, page, _ = broken
    (page / "examples/rain.png").unlink()
    open_anew(visit)
    visit.wait(lambda: visit.one("examples").is_displayed())
    (button,) = [each for each in visit.driver.find_elements(By.CSS_SELECTOR, "li button") if each.text == "Rain"]
    button.click()
    visit.wait(lambda: visit.one("message").is_displayed())
    assert visit.one("message").text == "This example could not be loaded. Check the connection and try again."
    (page / "examples/names.json").write_text("<html>")
    open_anew(visit)
    visit.wait(lambda: visit.one("no-examples").is_displayed())


def test_browser_that_lacks_something_and_a_page_that_is_a_file_are_told(broken):
    visit, page, picture = broken
    source = {"source": "delete globalThis.DecompressionStream;"}
    script = visit.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    visit.open()
    visit.upload(picture)
    visit.wait(lambda: visit.one("message").is_displayed())
    assert "too old for DecompressionStream" in visit.one("message").text
    assert visit.one("engine").text == "The network cannot run in this browser"
    visit.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    visit.driver.get((page / "index.html").as_uri())
    assert "works only from a server" in visit.one("message").text


def test_webgpu_restores_as_eager_does(folder, restorer, tmp_path):
    # A card that a program plays is slow, and the page would never choose it: here it may not ask how fast it is.
    page = shutil.copytree(folder, tmp_path / "page")
    text = (page / "engine.js").read_text(encoding="utf-8")
    assert SPEED in text
    (page / "engine.js").write_text(text.replace(SPEED, ""), encoding="utf-8")
    picture = make_picture((120, 88), tmp_path)
    with (
        serving(page, headers_for(1440)) as server,
        open_chromium(1440, tmp_path, SOFTWARE_WEBGPU) as driver,
    ):
        visit = Visit(driver, server.origin)
        visit.open()
        assert visit.wait_until_ready() == "WebGPU"
        visit.restore(picture)
        assert difference(visit.pixels("after"), restorer(picture)) <= 1
    assert difference(np.asarray(restorer(picture)), read(picture)) > 20


def test_nothing_went_wrong_on_the_way(visit):
    entries = visit.driver.get_log("browser")
    assert [entry["message"] for entry in entries if entry["level"] == "SEVERE"] == []
