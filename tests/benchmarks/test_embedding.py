"""What the benchmark of the embedding measures, on an extractor of a few channels and on made-up embeddings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from benchmarks import embedding
from benchmarks.embedding import Embedded, embed, measure_rebuilding, probe, spoil
from dataset_scripts import KINDS
from modeling_dpmambair import DegradationExtractorConfig, DegradationExtractorForPreTraining
from tests.modeling_dpmambair.models import small_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = DegradationExtractorConfig(
        channels=[4, 4, 6, 8], kernel_sizes=[3, 3], embedding_dim=8, reconstruction_dim=4
    )
    return DegradationExtractorForPreTraining(config).eval()


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for seed in range(5):  # as many as the probe's cross-validation needs
        coarse = Image.fromarray(np.random.default_rng(seed).integers(256, size=(5, 6, 3), dtype=np.uint8))
        coarse.resize((300, 40)).save(tmp_path / f"pictures/{seed}.png")
    return tmp_path / "pictures"


def test_every_picture_is_spoiled_by_every_kind_the_same_way_each_time(pictures):
    first, second = (list(spoil([str(path) for path in sorted(pictures.iterdir())], 0)) for _ in range(2))
    assert [one.kind for one in first] == [*range(7)] * 5
    assert all(one.degraded.shape == (1, 3, 40, 256) for one in first)
    assert all(torch.equal(one.degraded, again.degraded) for one, again in zip(first, second, strict=True))
    assert all(not torch.equal(one.degraded, one.clean) for one in first)
    assert len({one.severity for one in first}) == 35
    assert {one.severity for one in spoil([str(next(pictures.iterdir()))], 0, (0.5, 0.5))} == {0.5}
    assert torch.equal(first[0].degraded * 255, torch.round(first[0].degraded * 255))


def test_gain_is_zero_where_nothing_is_rebuilt(model, pictures):
    """A last convolution of zeros returns the clean picture."""
    torch.nn.init.zeros_(model.reconstruction_unit.conv_out.weight)
    spoiled = list(spoil([str(path) for path in sorted(pictures.iterdir())], 0))
    found = measure_rebuilding(model.extractor, model.reconstruction_unit, spoiled)
    assert list(found) == [*KINDS, "mean"]
    assert all(scores["gain"] == 0 for scores in found.values())
    hazy = [peak_signal_noise_ratio(one.clean.numpy(), one.degraded.numpy(), data_range=1) for one in spoiled[::7]]
    assert found["haze"]["unchanged"] == pytest.approx(np.mean(hazy))
    assert found["mean"]["rebuilt"] == pytest.approx(np.mean([found[kind]["rebuilt"] for kind in KINDS]))


def make_embedded(count, spread, seed):
    rng = np.random.default_rng(seed)
    kinds = np.tile(np.arange(7), count)
    return Embedded(kinds, rng.random(len(kinds)), np.eye(7)[kinds] + spread * rng.standard_normal((len(kinds), 7)))


def test_probe_names_separable_kinds_and_guesses_others():
    found = probe(make_embedded(40, 0.05, 0), {"near": make_embedded(10, 0.05, 1), "far": make_embedded(10, 0.05, 2)})
    assert [found[name]["accuracy"]["mean"] for name in ("near", "far")] == [1, 1]
    blind = probe(make_embedded(40, 50, 0), {"all": make_embedded(40, 50, 1)})["all"]
    assert blind["accuracy"]["mean"] == pytest.approx(1 / 7, abs=0.08)
    assert sum(blind["confusion"]["haze"].values()) == 40


@pytest.mark.ci
@pytest.mark.slow
def test_command_writes_numbers_and_map(model, pictures, tmp_path):
    model.save_pretrained(tmp_path / "extractor")
    output = tmp_path / "results" / "embedding.json"
    options = {
        "--model": tmp_path / "extractor",
        "--photographs": pictures,
        "--clean": pictures,
        "--output": output,
    }
    result = CliRunner().invoke(embedding.app, [str(part) for option in options.items() for part in option])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    assert results["pictures"] == {"training": 15, "test": 5, "side": 256}
    assert set(results["probe"]["middle"]["accuracy"]) == set(results["rebuilding"]) == {*KINDS, "mean"}
    assert "missed" in result.stdout
    with Image.open(output.with_suffix(".png")) as picture:
        assert picture.size == (1300, 600)


def test_extractor_of_a_restorer_has_nothing_that_rebuilds(tmp_path):
    restorer = small_model()
    restorer.save_pretrained(tmp_path)
    extractor, unit = embedding.load_extractor(tmp_path)
    assert unit is None
    degraded = torch.rand(1, 3, 40, 30)
    expected = restorer(degraded).degradation_embedding
    torch.testing.assert_close(extractor(degraded).degradation_embedding, expected)


def test_embedding_is_that_of_the_extractor(model, pictures):
    spoiled = list(spoil([str(path) for path in pictures.iterdir()], 0))
    found = embed(model.extractor, spoiled)
    np.testing.assert_array_equal(found.severities, [one.severity for one in spoiled])
    expected = model.extractor(spoiled[3].degraded).degradation_embedding.detach()
    np.testing.assert_array_equal(found.embeddings[3], expected[0])
