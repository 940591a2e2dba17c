"""The benchmark of the static page: what it writes, with a page that does what is known."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import browser
from tests.chromium import needs_chromium
from tests.restoring import read

# It turns each picture two levels brighter, 0.4 seconds after it was chosen and, the first time, as long again.
PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<input id="file" type="file"><p id="status"></p><p id="engine">Ready: Abacus</p><canvas id="after"></canvas>
<script type="module">
const [file, status, after] = ["file", "status", "after"].map((name) => document.getElementById(name));
const rest = () => new Promise((resolve) => setTimeout(resolve, 400));
let loaded = rest();
fetch("beads.bin");
fetch("http://elsewhere.example/").catch(() => {});
file.onchange = async () => {
  const [chosen] = file.files, bitmap = await createImageBitmap(chosen), context = after.getContext("2d");
  file.value = "";
  await loaded;
  await rest();
  [after.width, after.height] = [bitmap.width, bitmap.height];
  context.drawImage(bitmap, 0, 0);
  const levels = context.getImageData(0, 0, bitmap.width, bitmap.height);
  levels.data.forEach((level, place) => (levels.data[place] = level + 2));
  context.putImageData(levels, 0, 0);
  status.textContent = `${chosen.name} is restored`;
};
</script>"""
RUNTIME = 'export const env = {versions: {web: "9.8.7"}};'


@pytest.fixture
def stand_ins(monkeypatch):
    """In place of the page and the package: the page above, and what restores nothing."""

    def build(folder, model):
        (folder / "runtime").mkdir(parents=True)
        (folder / "index.html").write_text(PAGE)
        (folder / "beads.bin").write_bytes(bytes(5000))
        (folder / "runtime/ort.wasm.min.mjs").write_text(RUNTIME)

    monkeypatch.setattr(browser, "build_page", build)
    monkeypatch.setattr(browser, "restore_all", lambda model, paths: {path: np.asarray(read(path)) for path in paths})
    monkeypatch.setattr(browser, "SIZES", ((64, 48), (96, 32), (2000, 1000)))


@pytest.mark.slow
@needs_chromium
def test_results_say_transfer_seconds_agreement_and_versions_of_both_screens(stand_ins, tmp_path):
    output = tmp_path / "browser.json"
    result = CliRunner().invoke(browser.app, ["--largest", "1", "--repeats", "2", "--output", str(output)])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    assert results["page"] == 5000 + len(PAGE) + len(RUNTIME)
    assert [(one["screen"], one["isolated"]) for one in results["visits"]] == [(390, False), (1440, True)]
    for one in results["visits"]:
        assert (one["engine"], one["onnxruntime_web"], one["elsewhere"]) == ("Abacus", "9.8.7", 1)
        assert one["transfer"] == 5000 + len(PAGE)
        assert int(one["chromium"].split(".")[0]) > 100
        assert [(each["width"], each["height"]) for each in one["pictures"]] == [(64, 48), (96, 32)]
        assert [each["difference"] for each in one["pictures"]] == [2, 2]
        assert all(0.4 <= each["again"] < 5 for each in one["pictures"])
    assert "requests to other hosts" in result.stdout


@pytest.mark.slow
@needs_chromium
def test_screens_can_be_chosen(stand_ins, tmp_path):
    output = tmp_path / "browser.json"
    arguments = ["--largest", "0.01", "--repeats", "1", "--screen", "390", "--output", output]
    result = CliRunner().invoke(browser.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    (one,) = json.loads(output.read_text())["visits"]
    assert one["screen"] == 390


def test_picture_is_degraded_at_its_final_size(tmp_path):
    path = browser.make_picture((120, 90), tmp_path)
    values = np.asarray(read(path), int)
    assert values.shape == (90, 120, 3)
    assert np.abs(np.diff(values, axis=1)).mean() > 5  # noise of single pixels
    shutil.copy(path, tmp_path / "first.png")
    assert browser.make_picture((120, 90), tmp_path).read_bytes() == (tmp_path / "first.png").read_bytes()


@pytest.mark.slow
def test_refused_page_is_an_error_in_the_words_of_the_command(tmp_path):
    with pytest.raises(ValueError, match="^`DIR` must be a folder with a model's config.json"):
        browser.build_page(tmp_path / "page", tmp_path / "no model")
