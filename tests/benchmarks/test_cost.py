"""The counts against the paper's figures and against the layout that was fitted to them."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import cost
from benchmarks.files import RESULTS
from modeling_dpmambair import DPMambaIRModel

# The layout's table: millions of parameters, GFLOPs in all; each to the digits that it gives.
LAYOUT = {
    "base": ("29.352", "153.47"),
    "base, two directions": ("31.727", "245.46"),
    "base, embedding 256": ("28.713", "153.47"),
    "base, embedding 384": ("29.033", "153.47"),
    "base, embedding 1024": ("30.631", "153.47"),
    "base-L (branches kept)": ("30.742", "157.83"),
    "small": ("5.142", "27.85"),
    "small, two directions": ("5.642", "43.60"),
    "light": ("1.548", "2.66"),
    "tiny": ("0.81", "4.5"),
    "tiny, two directions": ("0.842", "5.94"),
}

every_variant = pytest.mark.parametrize("variant", cost.VARIANTS, ids=lambda variant: variant.name)


@pytest.fixture(scope="module")
def counts():
    """The committed counts by model."""
    return {one["name"]: one for one in json.loads((RESULTS / "cost.json").read_text())["models"]}


def total(count):
    return count["macs"] + count["scan_flops"]


def test_counts_name_every_variant_in_order(counts):
    assert list(counts) == [variant.name for variant in cost.VARIANTS] == list(LAYOUT)


@pytest.mark.parametrize("name", LAYOUT)
def test_counts_equal_those_of_the_layout(counts, name):
    parameters, gflops = LAYOUT[name]
    for value, unit, text in ((counts[name]["parameters"], 1e6, parameters), (total(counts[name]), 1e9, gflops)):
        digits = len(text.partition(".")[2])
        assert f"{value / unit:.{digits}f}" == text


def test_base_splits_into_products_and_scans_as_in_the_layout(counts):
    assert counts["base"]["macs"] / 1e9 == pytest.approx(116.20, abs=0.005)
    assert counts["base"]["scan_flops"] / 1e9 == pytest.approx(37.27, abs=0.005)


def test_tiny_never_exceeds_a_million_parameters(counts):
    assert counts["tiny"]["parameters"] <= 1_000_000


def test_base_costs_what_the_paper_says(counts):
    assert counts["base"]["parameters"] == pytest.approx(29.35e6, rel=0.003)
    assert total(counts["base"]) == pytest.approx(153.3e9, rel=0.005)


def test_two_directions_cost_what_the_paper_says(counts):
    assert counts["base, two directions"]["parameters"] == pytest.approx(31.43e6, rel=0.015)
    assert total(counts["base, two directions"]) == pytest.approx(244.3e9, rel=0.015)


@pytest.mark.parametrize(("width", "parameters"), [(256, 28.71e6), (384, 29.03e6), (1024, 30.62e6)])
def test_embedding_widths_cost_what_the_paper_says(counts, width, parameters):
    assert counts[f"base, embedding {width}"]["parameters"] == pytest.approx(parameters, abs=0.05e6)


@every_variant
def test_parameters_are_those_of_the_model_that_is_built(counts, variant):
    with torch.device("meta"):
        model = DPMambaIRModel(variant.build_config())
    assert counts[variant.name]["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_variants_change_what_their_names_say():
    configs = {variant.name: variant.build_config() for variant in cost.VARIANTS}
    assert configs["base, two directions"].scan_directions == 2
    assert configs["base, two directions"].prompts == ["delta", "B"]
    assert configs["base, embedding 256"].extractor_config.embedding_dim == 256
    assert not configs["base-L (branches kept)"].extractor_config.is_merged
    assert configs["base"].extractor_config.is_merged


def test_counting_tiny_again_gives_the_committed_count(counts):
    variant = next(variant for variant in cost.VARIANTS if variant.name == "tiny")
    assert cost.count(variant) == counts["tiny"]


@pytest.mark.slow
@every_variant
def test_counting_again_gives_the_committed_count(counts, variant):
    assert cost.count(variant) == counts[variant.name]


def test_command_prints_an_aligned_table_and_writes_the_same_counts(counts, monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "count", lambda variant: counts[variant.name])
    output = tmp_path / "new" / "cost.json"
    result = CliRunner().invoke(cost.app, ["--output", str(output)])
    assert result.exit_code == 0, result.output
    assert output.read_text() == (RESULTS / "cost.json").read_text()
    lines = result.stdout.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == [
        *("base", "29.352", "29.35", "+0.01%", "116.20", "37.27", "153.47", "153.33", "+0.09%")
    ]  # fmt: skip
