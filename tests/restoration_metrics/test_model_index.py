"""Results as entries of a model index, written to YAML and read back by the Hub's own library."""

import pytest
from huggingface_hub import ModelCardData

from restoration_metrics.model_index import is_evaluation, list_eval_results, measured_weights


def results(task="low_light", before=(20.1234, 0.5), after=(25.6789, 0.75)):
    def scores(degraded, restored):
        return {
            name: dict(zip(("psnr", "ssim"), both, strict=True))
            for name, both in zip(("degraded", "small"), (degraded, restored), strict=True)
        }

    return {
        "benchmark": {"name": "synthetic7", "severity": 0.5, "seed": 7, "clean": "photographs"},
        "model": {"name": "small", "weights_sha256": "abc"},
        "sets": [{"name": task, "pairs": 3, "scores": scores(before, after)}],
        "overall": scores((20.1234, 0.5), (25.6789, 0.75)),
    }


def test_entries_hold_rounded_figures_and_their_conditions():
    entry, ssim = list_eval_results(results())[:2]
    assert (entry.metric_type, entry.metric_value, entry.metric_args["degraded"]) == ("psnr", 25.68, 20.12)
    assert (ssim.metric_type, ssim.metric_value) == ("ssim", 0.75)
    assert entry.dataset_name == "synthetic7 on photographs: low light"
    assert entry.dataset_args == {"clean": "photographs", "severity": 0.5, "seed": 7, "pairs": 3}


def test_entries_survive_the_index_of_a_card():
    entries = list_eval_results(results())
    written = ModelCardData(model_name="small", eval_results=entries).to_dict()
    assert ModelCardData(**written).eval_results == entries
    assert len(written["model-index"][0]["results"]) == 2, "each task has an entry of its own"


def test_mean_that_is_no_number_is_left_out_or_null():
    entries = list_eval_results(results(before=(20.0, None), after=(None, 0.75)))
    assert [entry.metric_type for entry in entries] == ["ssim", "psnr", "ssim"]
    assert entries[0].metric_args["degraded"] is None


def test_composites_are_listed_by_their_mean_only():
    entries = list_eval_results(results("haze+rain"))
    assert {entry.dataset_config for entry in entries} == {"photographs/overall"}
    assert entries[0].dataset_args["pairs"] == 3


def test_results_on_published_test_sets_are_no_evaluation_for_the_card():
    assert not is_evaluation(results() | {"benchmark": None})


@pytest.mark.parametrize("content", [[1], {"model": "name"}, {"models": []}, "text"])
def test_other_results_are_no_evaluation_and_name_no_weights(content):
    assert not is_evaluation(content)
    assert measured_weights(content) is None


def test_evaluation_names_its_weights():
    assert is_evaluation(results())
    assert measured_weights(results()) == "abc"
