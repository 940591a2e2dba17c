import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import peak_signal_noise_ratio
from transformers.utils import ModelOutput

from training.scores import score_descriptions, score_pictures


def test_gain_is_the_psnr_above_that_of_the_source() -> None:
    torch.manual_seed(0)
    clean = torch.rand(1, 3, 16, 16)
    degraded, rebuilt = clean * 0.5, clean * 0.9
    outputs = {"haze": ModelOutput(loss=torch.tensor(0.25), reconstruction=rebuilt)}
    scores = score_pictures(outputs, {"haze": {"low": degraded, "high": clean}}, "low", "high")
    before, after = (
        peak_signal_noise_ratio(clean.numpy(), each.numpy(), data_range=1.0) for each in (degraded, rebuilt)
    )
    assert scores.numbers["psnr_haze"] == pytest.approx(after, abs=1e-3)
    assert scores.numbers["gain_haze"] == scores.quality == pytest.approx(after - before, abs=1e-3)
    assert 0 < scores.numbers["ssim_haze"] < 1
    assert (scores.loss, scores.numbers["loss_haze"], len(scores.pictures)) == (0.25, 0.25, 3)


def test_patch_without_a_finite_psnr_is_left_out_of_the_gain() -> None:
    clean = torch.rand(2, 3, 16, 16)
    degraded = torch.stack([clean[0], clean[1] / 2])
    outputs = {"snow": ModelOutput(loss=torch.tensor(0.0), reconstruction=degraded)}
    scores = score_pictures(outputs, {"snow": {"low": degraded, "high": clean}}, "low", "high")
    assert scores.quality == pytest.approx(0, abs=1e-5)


def test_pretraining_that_describes_is_also_scored_by_accuracy() -> None:
    clean = torch.rand(2, 3, 16, 16)
    severity = torch.tensor([[0, 0.4, 0], [0, torch.nan, 0]])
    presence = torch.tensor([[0.1, 0.8, 0.2], [0.6, 0.2, 0.3]])
    output = ModelOutput(loss=torch.tensor(0.0), reconstruction=clean / 2, presence=presence)
    batch = {"low": clean / 3, "high": clean, "severity": severity}
    numbers = score_pictures({"rain": output}, {"rain": batch}, "low", "high").numbers
    assert (numbers["accuracy"], numbers["accuracy_rain"]) == (0.5, 0.5)


def test_descriptions_are_scored_by_accuracy_and_rank_correlation() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(6, 7)
    truth[:, 2] = torch.rand(6)
    presence = torch.rand(6, 7) * 0.5
    presence[:4, 2] = 1
    severity = torch.rand(6, 7)
    outputs = {"snow": ModelOutput(loss=torch.tensor(1.0), presence=presence, severity=severity)}
    scores = score_descriptions(outputs, {"snow": {"severity": truth}})
    is_right = (presence.argmax(1) == 2).float().mean().item()
    expected = spearmanr(severity[:, 2].numpy(), truth[:, 2].numpy()).statistic
    assert scores.numbers["accuracy_snow"] == pytest.approx(is_right)
    assert scores.numbers["spearman"] == pytest.approx(expected, abs=1e-5)
    assert scores.quality == pytest.approx((is_right + expected) / 2, abs=1e-5)
    assert scores.pictures == []
