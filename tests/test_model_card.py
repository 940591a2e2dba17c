"""The card's metadata are what the Hub reads, and its text keeps its word."""

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from benchmarks.files import RESULTS
from benchmarks.tables import TABLES
from dpmambair.shipped import ATTRIBUTION, SHIPPED
from tests.documents import (
    ROOT,
    check_command,
    missing_links,
    read,
    run_python_block,
    shell_commands,
    typed_measurements,
)


@pytest.fixture(scope="module")
def card():
    return ModelCard.load(ROOT / "model_card.md")


def test_metadata_parse_and_say_what_the_hub_asks(card):
    metadata = card.data.to_dict()
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-to-image"
    assert {"image-restoration", "mamba"} <= set(metadata["tags"])
    assert metadata["metrics"] == ["psnr", "ssim"]
    assert metadata["datasets"] == ["free-photographs"]


def test_model_index_holds_every_measured_mean_with_its_conditions(card):
    results = json.loads((RESULTS / TABLES["quality"].source).read_text(encoding="utf-8"))
    own = [entry for entry in card.data.eval_results if entry.dataset_type == results["benchmark"]["name"]]
    entries = {(entry.dataset_config.partition("/")[2], entry.metric_type): entry for entry in own}
    means = {each["name"]: each["scores"] for each in results["sets"]} | {"overall": results["overall"]}
    assert set(entries) == {(task, metric) for task in means for metric in ("psnr", "ssim")}
    for (task, metric), entry in entries.items():
        assert entry.metric_value == pytest.approx(means[task][results["model"]["name"]][metric], abs=0.006)
        assert entry.metric_args["degraded"] == pytest.approx(means[task]["degraded"][metric], abs=0.006)
        assert entry.dataset_args["severity"] == results["benchmark"]["severity"]
    assert card.data.model_name == results["model"]["name"]


def test_metadata_survive_the_hub_library(card, tmp_path):
    card.save(tmp_path / "README.md")
    assert ModelCard.load(tmp_path / "README.md").data.to_dict() == card.data.to_dict()


def test_sections_are_there_and_not_empty(card):
    headings = "Use", "Intended use", "Training data", "Training", "Results", "Limits", "Cost", "Reproduce", "Citation"
    sections = {name: card.text.partition(f"\n## {name}\n")[2].partition("\n## ")[0] for name in headings}
    assert [name for name, section in sections.items() if len(section.split()) <= 5] == []


def test_card_says_that_the_weights_are_free_and_what_is_doubtful(card):
    words = " ".join(card.text.split())
    assert "trained on free photographs alone" in words
    assert "read from credit lines" in words
    assert "SqueezeNet 1.1, was trained on ImageNet" in words


def test_photographs_are_counted_as_in_the_attribution(card):
    with (SHIPPED / ATTRIBUTION).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"\n{len(rows)} photographs " in card.text
    table = re.findall(r"^\| [^|]* \| (\d+) \| ([A-Z][^|]*) \|$", card.text, re.MULTILINE)
    counted = Counter(row["source"] for row in rows)
    assert sorted(int(number) for number, _ in table) == sorted(counted.values())
    licences = {re.sub(r"-\d.*", "", row["licence"]).replace("CC-", "CC ").lower() for row in rows}
    assert {name for _, names in table for name in names.lower().split(", ")} == licences


def test_every_photograph_has_an_author_and_a_licence_that_allows_any_use():
    with (SHIPPED / ATTRIBUTION).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["title"] and row["author"] and row["source"] for row in rows)
    assert {
        row["licence"]
        for row in rows
        if not re.fullmatch(r"CC0-1\.0|CC-BY(-SA)?-\d\.\d|Public domain", row["licence"])
    } == set()


@pytest.mark.parametrize("line", shell_commands("model_card.md"))
def test_command_exists_and_takes_its_options(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_command(line)


@pytest.mark.ci
@pytest.mark.slow
def test_python_lines_restore_a_picture(tmp_path):
    # The block before it names a repository of the Hub; tests/test_hub.py runs it.
    degraded, restored = run_python_block("model_card.md", tmp_path, number=1)
    assert (restored.mode, restored.size) == ("RGB", degraded.size)
    assert (np.asarray(restored) != np.asarray(degraded)).any()


def test_linked_files_and_pictures_exist():
    assert missing_links("model_card.md") == []


def test_measured_numbers_stand_in_rendered_tables_only():
    assert typed_measurements("model_card.md") == []


def test_card_lies_beside_the_shipped_weights_too():
    assert (SHIPPED / "README.md").read_text(encoding="utf-8") == read("model_card.md")


def test_failure_cases_are_shown_in_a_picture_of_the_measured_strips(card):
    section = card.text.partition("\n### Failure cases\n")[2].partition("\n## ")[0]
    assert "](docs/images/failures.png)" in section
    failures = json.loads((RESULTS / TABLES["failures"].source).read_text(encoding="utf-8"))
    quality = json.loads((RESULTS / TABLES["quality"].source).read_text(encoding="utf-8"))
    assert failures["model"]["weights_sha256"] == quality["model"]["weights_sha256"]
    with Image.open(ROOT / "docs/images/failures.png") as picture:
        assert picture.height > picture.width * len(failures["worst"]) / 6
