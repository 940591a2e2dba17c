"""What drives Chromium: files are served as they are, and nothing that a page asks for goes unnoticed."""

from urllib.request import urlopen

import pytest

from benchmarks import chromium
from tests.chromium import needs_chromium
from tests.restoring import read

# Its worker asks for a file of the page and for one elsewhere; the page itself for one elsewhere.
PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<body style="margin: 0"><p id="engine" style="margin: 0; height: 1500px">Loading</p><script type="module">
await fetch("http://page.example/").catch(() => {});
new Worker("worker.js").onmessage = () => (document.getElementById("engine").textContent = "Ready: Abacus");
</script>"""
WORKER = 'Promise.allSettled([fetch("http://worker.example/"), fetch("beads.bin")]).then(() => postMessage(0));'


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    for name, content in {"index.html": PAGE, "worker.js": WORKER, "beads.bin": "bead" * 1000}.items():
        (folder / name).write_text(content)
    return folder


def test_files_are_served_with_the_headers_and_their_sizes_are_noted(folder):
    with chromium.serving(folder, {"X-Beads": "4000"}) as server:
        for _ in range(2):
            with urlopen(f"{server.origin}/beads.bin") as answer:
                assert answer.headers["X-Beads"] == "4000"
                assert len(answer.read()) == 4000
    assert server.sizes == [4000, 4000]


def test_machine_without_chromium_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(chromium, "CHROMEDRIVER", None)
    with pytest.raises(ValueError, match="^`chromium` and `chromedriver` must be on the PATH, got .* None; install"):
        chromium.open_chromium(390, tmp_path)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", chromium.SCREENS)
def test_requests_of_page_and_worker_are_all_read_and_none_arrives_elsewhere(folder, width, tmp_path):
    with chromium.serving(folder, chromium.headers_for(width)) as server:
        with chromium.open_chromium(width, tmp_path) as driver:
            page = chromium.StaticPage(driver, server.origin)
            page.open()
            assert page.wait_until_ready() == "Abacus"
            assert driver.execute_script("return [innerWidth, crossOriginIsolated]") == [width, width == 1440]
            chromium.take_screenshot(driver, tmp_path / "page.png")
        asked = chromium.read_requests(tmp_path, server.origin)
    here = [f"{server.origin}/{name}" for name in ("worker.js", "beads.bin")]
    assert sorted(asked) == sorted(["http://page.example/", "http://worker.example/", *here])
    assert read(tmp_path / "page.png").size == (width, 1500)
    assert sorted(server.sizes) == sorted(path.stat().st_size for path in folder.iterdir())
