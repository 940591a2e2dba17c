"""The parts for programs elsewhere, put together, do what the package does with large pictures."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from modeling_dpmambair import large_export_dpmambair as parts
from modeling_dpmambair import scan_backend
from modeling_dpmambair.extractor_statistics_dpmambair import split_windows
from modeling_dpmambair.large_pictures_dpmambair import embed_picture, restore_tiled
from modeling_dpmambair.large_plan_dpmambair import plan_tiles
from tests.modeling_dpmambair.models import pictures, small_model
from tests.sources import ROOT

TILES = ROOT / "demo/static/tiles.js"

# Tiles, each with its overlap, as wide as the picture and narrower.
ROWS, SQUARES = ((288, 56), 128), ((64, 40), 16)
FINE = {"has_fine_statistics": True}
# Prints plans of tiles as the page makes them.
PLANS = """
import {chooseTile, planTiles} from "./tiles.js";
const plans = JSON.parse(process.argv[1]).map(([height, width, pixels]) => {
  const [tile, overlap] = chooseTile(height, width, pixels);
  const spans = planTiles(height, width, tile, overlap).map(({rows, columns}) => [rows, columns].map((span) =>
    ({...span, weights: [...span.weights]})));
  return {tile, overlap, spans};
});
console.log(JSON.stringify(plans));
"""
# Restores a picture as the page does, with the stand-in for a network that the test has in Python.
RESTORATION = """
import {readFileSync} from "node:fs";
import {restore} from "./tiles.js";
const {height, width, values, feedback, plan} = JSON.parse(readFileSync(process.argv[1]));
const sum = (array) => array.reduce((total, each) => total + each, 0), mean = (array) => sum(array) / array.length;
let calls = 0, total;
async function run(part, {pixel_values: {data, dims}, rows, columns, seams, means, knows_means, states}) {
  calls++;
  const [, , h, w] = dims, isWithin = (place, [start, stop]) => place >= start && place < stop;
  const own = [0, 1, 2].map((plane) => mean(Array.from(data.subarray(plane * h * w, (plane + 1) * h * w)).filter(
    (_, i) => isWithin(Math.floor(i / w), rows.data) && isWithin(i % w, columns.data))));
  const used = knows_means.data[0] ? means.data : own, added = sum(seams.data) / 1e4 + sum(states.data) / 10;
  return {
    reconstruction: {data: data.map((value, i) => value / 2 + used[Math.floor(i / (h * w))] + added)},
    found_means: {data: own.map((value, plane) => value + feedback * used[2 - plane] + mean(states.data) / 10)},
    found_states: {data: states.data.map((value) => value / 2 + mean(own)), dims: states.dims},
  };
}
const picture = {height, width, values: Float32Array.from(values)};
const restored = await restore(run, picture, null, {means: 3, states: 2}, plan, (done, all) => (total = all));
console.log(JSON.stringify({calls, total, values: [...restored.values]}));
"""


WINDOWS = """
import {readFileSync} from "node:fs";
import {embed} from "./tiles.js";
const [height, width, window, values] = JSON.parse(readFileSync(process.argv[1]));
const sum = (array) => array.reduce((total, each) => total + each, 0);
const run = (part, {pixel_values, moments}) => part === "embed" ? [...moments.data] :
  {moments: {data: Float32Array.of(sum(pixel_values.data)), dims: [1, 1]}};
console.log(JSON.stringify(await embed(run, {height, width, values: Float32Array.from(values)}, {window})));
"""


def run_node(script, argument):
    """Run a script that imports the page's tiles, and return what it prints as JSON."""
    script = script.replace("./tiles.js", TILES.as_uri())
    command = ["node", "--input-type=module", "-e", script, str(argument)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture(autouse=True)
def _portable():
    """What is traced: torch's own operators, without gradients."""
    with torch.no_grad(), scan_backend("export"):
        yield


@pytest.mark.parametrize("extractor", [{}, FINE, {"window": 32}, FINE | {"window": 32, "head_dim": 5}], ids=str)
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "strips"])
def test_embedding_and_description_in_parts_are_the_pictures(monkeypatch, extractor, is_cut):
    model, degraded = small_model(extractor, has_description=True), pictures(1, 203, 45)
    expected = model.describe(degraded)
    if is_cut:
        monkeypatch.setattr(parts, "EMBEDDED_PIXELS", 1)
        monkeypatch.setattr(parts, "EMBEDDED_CONTEXTS", 4)
    measure, embed = parts.StripMeasures(model), parts.PictureEmbedding(model)
    found = parts.embed_in_parts(
        measure, embed, degraded, parts.embedding_context(model.extractor), extractor.get("window")
    )
    embedding = embed_picture(model.extractor, degraded)
    torch.testing.assert_close(found["degradation_embedding"], embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["presence"], expected.presence, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["severity"], expected.severity, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [
    {"has_heb": False}, {"first_mixer_level": 2, "has_film": True}, *(
        pytest.param(each, marks=[pytest.mark.ci, pytest.mark.slow])
        for each in ({}, {"discretization": "zoh"}, {"scan_directions": 2})
    ),
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("tile", "overlap"), [
    (None, 0), ((96, 96), 32), pytest.param((64, 64), 32, marks=[pytest.mark.ci, pytest.mark.slow]),
], ids=str)  # fmt: skip
def test_tiles_in_parts_are_restored_as_the_package_restores_them(changes, tile, overlap):
    model, degraded = small_model(**changes), pictures(1, 101, 66)
    embedding, restorer = embed_picture(model.extractor, degraded), parts.TileRestorer(model)
    sizes = {"means": restorer.means, "states": restorer.states}
    found = parts.restore_in_parts(restorer, degraded, embedding, sizes, tile, overlap)
    given = {"tile": tile, "overlap": overlap} if tile else {}
    with scan_backend("numba"):  # the package's own: many times faster, and another implementation
        expected = restore_tiled(model, degraded, degradation_embedding=embedding, **given).reconstruction
    assert (expected - degraded).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("size", [(50, 71), (13, 20)])
def test_page_cuts_windows_as_the_package_does(tmp_path, size):
    picture = pictures(1, *size)
    (tmp_path / "picture.json").write_text(json.dumps([*size, 24, picture.flatten().tolist()]))
    found = run_node(WINDOWS, tmp_path / "picture.json")
    torch.testing.assert_close(torch.tensor(found), split_windows(picture, 24).sum((1, 2, 3)), rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_page_plans_tiles_as_the_package_does():
    cases = [(512, 512, 2**19), (1200, 1024, 2**19), (1021, 1003, 2**18), (900, 5000, 2**18), (203, 90, 10**4)]
    for (height, width, _), plan in zip(cases, run_node(PLANS, json.dumps(cases)), strict=True):
        tiles = plan_tiles(height, width, tuple(plan["tile"]), plan["overlap"])
        for ours, tile in zip(plan["spans"], tiles, strict=True):
            for found, span in zip(ours, (tile.rows, tile.columns), strict=True):
                np.testing.assert_allclose(found.pop("weights"), span.weights, atol=1e-6)
                assert found == {name: getattr(span, name) for name in found}
                assert len(found) == 5


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_page_takes_rows_as_wide_as_the_picture_and_the_widest_overlap_that_fits_twice():
    sizes = [(700, 700), (1224, 1632), (1820, 2730), (2000, 3000), (3000, 4100), (900, 8200)]
    plans = run_node(PLANS, json.dumps([(*size, 2**19) for size in sizes]))
    tiles = [(704, 704), (320, 1632), (184, 2736), (168, 3000), (120, 4104), (720, 720)]
    assert [tuple(plan["tile"]) for plan in plans] == tiles
    assert [plan["overlap"] for plan in plans] == [0, 96, 64, 64, 32, 128]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(("feedback", "corrections", "tile", "overlap"), [
    (0.2, 1, *ROWS), (0.001, 0, *SQUARES), (0.9, 2, *SQUARES), *(
        pytest.param(*each, marks=[pytest.mark.ci, pytest.mark.slow])
        for each in ((0.001, 0, *ROWS), (0.9, 2, *ROWS), (0.2, 1, *SQUARES))
    ),
])  # fmt: skip
def test_page_puts_tiles_together_as_the_package_does(tmp_path, monkeypatch, feedback, corrections, tile, overlap):
    # The page stops correcting the means earlier: it shows 8 bits.
    (tolerance,) = re.findall(r"MEANS_TOLERANCE = (\S+);", TILES.read_text())
    monkeypatch.setattr(parts, "MEANS_TOLERANCE", float(tolerance))
    degraded, calls = pictures(1, 403, 56) * torch.linspace(0, 1, 403)[:, None], []

    def restore(pixel_values, degradation_embedding, states, means, knows_means, rows, columns, seams):
        calls.append(tile)
        own = pixel_values[0, :, rows[0] : rows[1], columns[0] : columns[1]].mean((1, 2))
        used = means if knows_means else own
        restored = pixel_values / 2 + used[:, None, None] + seams.sum() / 1e4 + states.sum() / 10
        found_means = own + feedback * used.flip(0) + states.mean() / 10
        return {"reconstruction": restored, "found_means": found_means, "found_states": states / 2 + own.mean()}

    expected = parts.restore_in_parts(restore, degraded, torch.zeros(1, 1), {"means": 3, "states": 2}, tile, overlap)
    given = {"height": 403, "width": 56, "values": degraded.flatten().tolist()}
    given |= {"feedback": feedback, "plan": [tile, overlap]}
    (tmp_path / "given.json").write_text(json.dumps(given))
    found = run_node(RESTORATION, tmp_path / "given.json")
    count = len(plan_tiles(403, 56, tile, overlap))
    assert len(calls) == 2 * count + 2 + corrections * (count + 2)
    assert found["calls"] == found["total"] == len(calls)
    torch.testing.assert_close(torch.tensor(found["values"]), expected.flatten(), rtol=0, atol=1e-5)
