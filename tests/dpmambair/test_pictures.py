"""How a picture is described and put on a device."""

import pytest
import torch

from dpmambair.pictures import share_devices, summarize


def test_a_report_names_what_is_likelier_there_than_not_the_likeliest_first():
    detected = {
        "haze": {"presence": 0.9, "severity": 0.25},
        "rain": {"presence": 0.4, "severity": 0.5},
        "snow": {"presence": 0.95, "severity": 0.5},
    }
    assert summarize(detected) == "snow 0.95 (severity 0.50), haze 0.90 (severity 0.25)"
    assert summarize({"rain": detected["rain"]}) == "no degradation"


@pytest.mark.parametrize(("rank", "device"), [(0, "cuda:0"), ("3", "cuda:1"), (None, "auto")])
def test_processes_share_the_gpus_of_a_machine(monkeypatch, rank, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert share_devices("auto", rank) == device
    assert share_devices("cpu", rank) == "cpu"
    assert share_devices("cuda:7", rank) == "cuda:7"


def test_processes_without_a_gpu_take_what_there_is():
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    assert share_devices("auto", 1) == "auto"
