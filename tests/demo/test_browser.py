"""Headless Chromium uses the page as a visitor does, on a phone and on a desktop."""

import io
import json
import re
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from restoration_page.report import name_kind
from restoration_page.restorer import Control
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.chromium import SCREENS, open_chromium, take_screenshot, wait
from tests.chromium import needs_chromium
from tests.demo.conftest import KINDS, MARKER, ROOT
from tests.restoring import photograph, read, save

pytestmark = [pytest.mark.slow, needs_chromium]


class Browser:
    """A Chromium of one width that shows the page."""

    def __init__(self, address, driver, width, screenshots):
        self.address, self.driver, self.width, self.screenshots = address, driver, width, screenshots

    def open(self, scheme="light"):
        """Open the page anew, as somebody who prefers these colours."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(self.address)
        self.wait(lambda: len(self.all("#slider img")) == 2)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        (element,) = self.all(selector)
        return element

    def wait(self, condition):
        return wait(condition, self.driver)

    def text(self, selector):
        return self.one(selector).text

    def upload(self, path):
        self.one("#upload input[type=file]").send_keys(str(path))

    def shown(self):
        """Return the two pictures of the slider, in the order of their layers."""
        found = []
        for image in self.all("#slider img"):
            with urlopen(image.get_attribute("src")) as response:
                found.append(Image.open(io.BytesIO(response.read())))
        return found

    def download(self, folder):
        """Press the button, and return the file that arrives."""
        place = {"behavior": "allow", "downloadPath": str(folder)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", place)
        self.one("#download").click()
        return self.wait(lambda: next(folder.glob("*.png"), None))

    def shows(self, picture):
        """Whether the slider shows this picture, before or after."""
        return any(np.array_equal(each, picture) for each in self.shown())

    def take_screenshot(self, name):
        """Keep a picture of the whole page."""
        take_screenshot(self.driver, self.screenshots / f"{name}_{self.width}.png")

    def requests(self):
        """Return the addresses that the page has asked for since the last call, data and blobs left out."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (event["params"] for event in events if event["method"] == "Network.requestWillBeSent")
        # The browser's own empty first page belongs to nobody's document.
        ours = (each["request"]["url"] for each in sent if each["documentURL"].startswith(self.address))
        return [url for url in ours if not url.startswith(("data:", "blob:"))]

    def complaints(self):
        """Return the console's errors since the last call; Gradio itself warns when it closes a stream."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module", params=SCREENS, ids=lambda width: f"{width}px")
def chromium(request, address, tmp_path_factory, screenshots):
    with open_chromium(request.param, tmp_path_factory.mktemp("chromium")) as driver:
        yield Browser(address, driver, request.param, screenshots)


@pytest.fixture
def browser(chromium):
    chromium.open()
    yield chromium
    complaints, requests = chromium.complaints(), chromium.requests()
    assert complaints == []
    assert requests
    assert {urlsplit(url).hostname for url in requests} == {"127.0.0.1"}


@pytest.fixture
def picture(tmp_path):
    """A picture that is no example: an enlarged mosaic, so that the screenshots show what happens to it."""
    return save(tmp_path / "in" / "mine.png", photograph((9, 6)).resize((360, 240), 0))


def test_page_opens_with_a_restored_example_and_fits_the_screen(browser, restorer):
    example = ROOT / "examples" / "low_light.png"
    assert browser.shows(read(example).convert("RGB"))
    assert browser.shows(restorer.at_strength(restorer.restore(example), 1).image)
    assert browser.text("h1") == "Restore a photograph"
    assert MARKER in browser.text("#closing")
    assert len(browser.all("#examples .thumbnail-item")) == 8
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= browser.width
    browser.take_screenshot("opening")
    slider, column = browser.one("#slider").size, browser.one("#result").size
    assert slider["width"] == pytest.approx(column["width"], abs=2)
    assert slider["width"] >= (0.85 if browser.width < 500 else 0.55) * browser.width


def test_page_is_readable_in_the_dark(browser):
    browser.open("dark")
    lightness = "return getComputedStyle(document.querySelector(arguments[0])).color.match(/\\d+/g).map(Number)"
    assert min(browser.driver.execute_script(lightness, "h1")) > 200
    browser.take_screenshot("dark")


def test_uploaded_picture_is_restored_described_and_offered_for_download(browser, restorer, picture, tmp_path):
    browser.upload(picture)
    browser.wait(lambda: "mine.png 360 × 240 pixels" in browser.text("#caption"))
    restored = restorer.at_strength(restorer.restore(picture), 1).image
    browser.wait(lambda: browser.shows(restored))
    assert browser.shows(read(picture))
    rows = [row.text.split("\n") for row in browser.all("#report tbody tr")]
    found = restorer.restore(picture).degradations
    expected = {name_kind(kind): [f"{share:.0%}" for share in shares.values()] for kind, shares in found.items()}
    rows = [row.text.split() for row in browser.all("#report tbody tr")]
    assert {" ".join(row[:-2]): row[-2:] for row in rows} == expected
    assert len(rows) == len(KINDS)
    download = browser.download(tmp_path)
    assert download.name == "mine-restored.png"
    assert np.array_equal(read(download), restored)
    browser.take_screenshot("uploaded")


def test_former_picture_is_not_offered_while_another_is_worked_on(browser, tmp_path):
    large = save(tmp_path / "in" / "large.png", photograph((90, 60)).resize((1800, 1200), 0))
    assert browser.one("#download").is_enabled()
    browser.upload(large)
    browser.wait(lambda: "large.png is being restored" in browser.text("#caption"))
    states = []
    while "large.png is being restored" in browser.text("#caption"):
        states.append((browser.text("#report"), browser.one("#download").is_enabled()))
    browser.take_screenshot("waiting")
    assert set(states[:-1]) == {("", False)}
    browser.wait(lambda: "large.png 1800 × 1200 pixels" in browser.text("#caption"))
    assert len(browser.all("#report tbody tr")) == len(KINDS)
    assert browser.download(tmp_path).name == "large-restored.png"


def test_labels_of_the_report_stand_apart_from_their_bars(browser):
    # In bold, as where it is likely; and the text itself, which may be wider than its cell.
    browser.driver.execute_script("document.querySelectorAll('#report tr').forEach(row => row.className = 'likely')")
    script = "const text = document.createRange(); text.selectNodeContents(arguments[0]);"
    script += "return text.getBoundingClientRect().right"
    for row in browser.all("#report tbody tr"):
        label, bar = row.find_element(By.TAG_NAME, "th"), row.find_element(By.CSS_SELECTOR, ".presence .bar")
        assert browser.driver.execute_script(script, label) + 8 <= bar.rect["x"], label.text


def test_touched_example_is_restored(browser, restorer):
    browser.all("#examples .thumbnail-item")[-1].click()
    browser.wait(lambda: "snow.png" in browser.text("#caption"))
    restored = restorer.at_strength(restorer.restore(ROOT / "examples" / "snow.png"), 1).image
    browser.wait(lambda: browser.shows(restored))
    browser.take_screenshot("example")


def test_slider_moves_between_before_and_after(browser):
    handle = browser.one("#slider [data-testid=slider]")
    start = handle.rect["x"]
    ActionChains(browser.driver).drag_and_drop_by_offset(handle, -80, 0).perform()
    browser.wait(lambda: handle.rect["x"] == pytest.approx(start - 80, abs=10))
    browser.take_screenshot("slider")


def test_strength_changes_picture_and_download(browser, restorer, tmp_path):
    restoration = restorer.restore(ROOT / "examples" / "low_light.png")
    strength = browser.one("#strength input[type=range]")
    strength.send_keys(Keys.ARROW_RIGHT * 10)
    browser.wait(lambda: browser.shows(restorer.at_strength(restoration, 1.5).image))
    browser.take_screenshot("strength")
    strength.send_keys(Keys.ARROW_LEFT * 30)
    browser.wait(lambda: all(np.array_equal(each, restoration.degraded) for each in browser.shown()))
    assert np.array_equal(read(browser.download(tmp_path)), restoration.degraded)


def test_kinds_that_are_not_ticked_stay(browser, restorer, tmp_path):
    browser.all("#repair input[type=checkbox]")[KINDS.index("low_light")].click()
    kept = restorer.restore(ROOT / "examples" / "low_light.png", Control(("low_light",)))
    browser.wait(lambda: browser.shows(restorer.at_strength(kept, 1).image))
    browser.take_screenshot("kept")
    assert np.array_equal(read(browser.download(tmp_path)), restorer.at_strength(kept, 1).image)
    browser.one("#ensemble input").click()
    kept = restorer.restore(ROOT / "examples" / "low_light.png", Control(("low_light",), True))
    browser.wait(lambda: browser.shows(restorer.at_strength(kept, 1).image))


def test_bad_file_gets_a_friendly_message_and_the_page_goes_on(browser, tmp_path, picture):
    text = tmp_path / "text.jpg"
    text.write_text("this is no picture")
    browser.upload(text)
    browser.wait(lambda: browser.all(".toast-body") and browser.text(".toast-body"))  # it fades in
    message = browser.text(".toast-body")
    assert re.search(r"not a picture that can be read here\.\s+Please choose one of AVIF", message)
    assert "Traceback" not in message
    browser.take_screenshot("bad_file")
    browser.one(".toast-close").click()
    browser.wait(lambda: "low_light.png 348 × 232 pixels" in browser.text("#caption"))
    assert browser.one("#download").is_enabled()
    browser.open()
    browser.upload(picture)
    browser.wait(lambda: "mine.png" in browser.text("#caption"))
