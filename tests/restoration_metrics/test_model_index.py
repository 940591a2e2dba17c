"""Results as entries of a model index, written to YAML and read back by the Hub's own library."""

import pytest
from huggingface_hub import ModelCardData

from restoration_metrics.model_index import is_evaluation, list_eval_results, measured_weights


def results(**changes):
    means = {
        "pictures": 3,
        "psnr_degraded": 20.1234,
        "psnr_restored": 25.6789,
        "ssim_degraded": 0.5,
        "ssim_restored": 0.75,
    }
    return {
        "benchmark": {"name": "synthetic7", "severity": 0.5, "seed": 7, "clean": "photographs"},
        "model": {"name": "small", "weights_sha256": "abc"},
        "tasks": {"low_light": means | changes},
        "overall": means,
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
    entries = list_eval_results(results(psnr_restored=None, ssim_degraded=None))
    assert [entry.metric_type for entry in entries] == ["ssim", "psnr", "ssim"]
    assert entries[0].metric_args["degraded"] is None


@pytest.mark.parametrize("content", [[1], {"model": "name"}, {"models": []}, "text"])
def test_other_results_are_no_evaluation_and_name_no_weights(content):
    assert not is_evaluation(content)
    assert measured_weights(content) is None


def test_evaluation_names_its_weights():
    assert is_evaluation(results())
    assert measured_weights(results()) == "abc"
