"""What `benchmarks.steering` measures, and its tables, read back by their columns."""

import numpy as np
import pytest
import torch
from skimage import data

from benchmarks.steering import Composite, degrade, load_pictures, measure, measure_shares
from benchmarks.steering_table import ensemble_grid, render_steering, steering_grid
from dataset_scripts.degradations import KINDS
from modeling_dpmambair import DPMambaIRImageProcessor, Restorer
from tests.modeling_dpmambair.models import small_model
from tests.restoring import photograph, save


@pytest.fixture
def clean():
    return data.astronaut()[40:88, 200:248].astype(np.float32) / 255


def test_a_composite_is_both_kinds_and_each_alone(clean):
    composite = degrade(clean, ("rain", "noise"), 0)
    again, other = degrade(clean, ("rain", "noise"), 0), degrade(clean, ("rain", "noise"), 1)
    assert torch.equal(composite.degraded, again.degraded)
    assert not torch.equal(composite.degraded, other.degraded)
    damage = {kind: (each - composite.clean).square().mean() for kind, each in composite.alone.items()}
    assert (composite.degraded - composite.clean).square().mean() > max(damage.values()) > min(damage.values()) > 0
    # Rain brightens; sensor noise does both.
    assert (composite.alone["rain"] - composite.clean).mean() > 0.01
    assert (composite.alone["noise"] - composite.clean).min() < -0.2


def test_shares_tell_what_was_taken_away():
    torch.manual_seed(0)
    clean, rain, noise = torch.rand(3, 1, 3, 8, 8)
    composite = Composite(clean + 0.1 * rain + 0.1 * noise, {"rain": clean + 0.1 * rain}, clean)
    halves = clean + 0.1 * 0.75 * rain + 0.1 * 0.5 * noise
    assert measure_shares(composite, halves, "rain") == pytest.approx((0.5, 0.25), abs=1e-4)
    assert measure_shares(composite, composite.degraded, "rain") == pytest.approx((0, 0), abs=1e-4)
    assert measure_shares(composite, clean, "rain") == pytest.approx((1, 1), abs=1e-4)


@pytest.mark.ci
@pytest.mark.slow
def test_every_kind_of_the_model_is_kept_once(clean):
    torch.manual_seed(0)
    model = small_model({"degradations": KINDS}, has_description=True)
    found = measure(Restorer(model, DPMambaIRImageProcessor()), [clean[:24, :24]])
    assert list(found["keep"]) == [*KINDS, "mean"]
    assert set(found["ensemble"]) == {"degraded", "restored", "ensemble"}
    assert found["keep"]["mean"]["lost_kept"] == pytest.approx(
        np.mean([found["keep"][kind]["lost_kept"] for kind in KINDS])
    )


def test_pictures_are_the_middles_of_those_that_training_holds_out(tmp_path):
    for name in range(6):
        save(tmp_path / f"{name}.png", photograph((80, 60), seed=name))
    pictures = load_pictures(tmp_path, every=2, count=2, side=40)
    expected = [np.asarray(photograph((80, 60), seed=seed))[10:50, 20:60] / np.float32(255) for seed in (0, 2)]
    np.testing.assert_allclose(pictures, expected, atol=1e-6)


def test_tables_have_a_row_for_each_model_and_kind():
    row = dict.fromkeys(["psnr_degraded", "psnr_whole", "psnr_kept"], 20.125)
    row |= {"lost_whole": 0.5, "lost_kept": 0.125, "repaired_whole": 0.625, "repaired_kept": 0.75}
    ensemble = {"degraded": 10, "restored": 20, "ensemble": 20.25}
    model = {"model": {"name": "light"}, "keep": {"low_light": row, "mean": row}, "ensemble": ensemble}
    results = {"pictures": 3, "side": 64, "severity": 0.5, "seed": 1, "models": [model]}
    cells = ["50%", "12%", "62%", "75%", "20.12", "20.12", "20.12"]
    assert steering_grid(results)[1:] == [["light", "low light", *cells], ["light", "mean", *cells]]
    assert ensemble_grid(results)[1:] == [["light", "10.00", "20.00", "20.25"]]
    assert render_steering(results).endswith(
        "64 x 64 pixels, each degraded by every two kinds at severity 0.5, seed 1."
    )
