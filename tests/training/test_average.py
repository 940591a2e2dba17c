"""Averaging: the weights between those of two runs."""

import pytest
import torch
from typer.testing import CliRunner

from modeling_dpmambair import DPMambaIRModel
from tests.modeling_dpmambair.models import assert_same_weights, pictures, randomized, small_model
from training.average import app, average_weights


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.ci
@pytest.mark.slow
def test_mean_is_numpys_of_every_weight(tmp_path):
    models = [randomized(small_model()) for _ in range(3)]
    for place, model in enumerate(models):
        model.save_pretrained(tmp_path / str(place))
    result = run(*(tmp_path / str(place) for place in range(3)), "-o", tmp_path / "mean")
    assert result.exit_code == 0, result.output
    mean = DPMambaIRModel.from_pretrained(tmp_path / "mean").state_dict()
    for name, tensor in mean.items():
        expected = sum(model.state_dict()[name].double().numpy() for model in models) / 3
        torch.testing.assert_close(tensor.double(), torch.from_numpy(expected).view_as(tensor), rtol=0, atol=1e-6)


def test_model_averaged_with_itself_stays_the_same_to_the_bit(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "one")
    assert run(tmp_path / "one", tmp_path / "one", "-o", tmp_path / "mean").exit_code == 0
    again, degraded = DPMambaIRModel.from_pretrained(tmp_path / "mean"), pictures()
    with torch.no_grad():
        torch.testing.assert_close(again(degraded).reconstruction, model(degraded).reconstruction, rtol=0, atol=2e-6)
    assert_same_weights(again, model)


def test_models_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="`runs` must hold models of one configuration"):
        average_weights([small_model().state_dict(), small_model(d_state=5).state_dict()])


def test_existing_folder_stays_as_it_is(tmp_path):
    small_model().save_pretrained(tmp_path / "one")
    result = run(tmp_path / "one", "-o", tmp_path / "one")
    assert result.exit_code == 2
    assert "must be a new folder" in result.output


def test_command_refuses_models_of_other_shapes_and_leaves_nothing(tmp_path):
    small_model().save_pretrained(tmp_path / "one")
    small_model(d_state=5).save_pretrained(tmp_path / "two")
    result = run(tmp_path / "one", tmp_path / "two", "-o", tmp_path / "mean")
    assert result.exit_code == 2
    assert "must hold models of one configuration" in " ".join(result.output.replace("│", " ").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
