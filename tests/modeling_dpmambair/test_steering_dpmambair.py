"""Steering: the head no longer sees what is to stay, and everything else as before."""

import pytest
import torch

from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel
from modeling_dpmambair.steering_dpmambair import choose_kept, steer_embedding
from tests.modeling_dpmambair.models import small_config
from tests.restoring import ROOT

HAZE, SNOW, NOISE = 0, 2, 6
KINDS = ("haze", "rain", "snow", "low_light", "blur", "jpeg", "noise")


@pytest.fixture(scope="module")
def model():
    """The trained weights of the light network, whose head tells kinds apart."""
    return DPMambaIRModel.from_pretrained(ROOT / "checkpoints" / "dpmambair-light").eval()


@pytest.fixture(scope="module")
def embeddings(model):
    torch.manual_seed(0)
    grey = torch.full((3, 3, 48, 64), 0.5)
    grey[1] += 0.2 * torch.randn(3, 48, 64)
    grey[2] = torch.rand(3, 48, 64) * 0.1
    with torch.no_grad():
        return model.extractor(grey.clamp(0, 1)).degradation_embedding


def told(model, embeddings):
    with torch.no_grad():
        return [logits.sigmoid() for logits in model.description_head(embeddings)]


@pytest.mark.parametrize("kept", [[HAZE], [NOISE], [HAZE, SNOW, NOISE]])
def test_what_stays_is_no_longer_told_and_the_rest_is_told_as_before(model, embeddings, kept):
    (before, severity), (after, changed) = (
        told(model, each) for each in (embeddings, steer_embedding(model.description_head, embeddings, kept))
    )
    others = [kind for kind in range(len(KINDS)) if kind not in kept]
    assert before[:, NOISE].max() > 0.9
    assert after[:, kept].max() < 0.1
    assert (after - before)[:, others].abs().max() < 0.1
    assert (before * (changed - severity).abs())[:, others].max() < 0.1


def test_what_is_not_there_need_not_be_taken_out(model, embeddings):
    absent = told(model, embeddings)[0][1].argmin().item()
    steered = steer_embedding(model.description_head, embeddings[1:2], [absent])
    assert (steered - embeddings[1:2]).square().mean() < 0.1 * embeddings[1].var()


def test_a_picture_is_steered_as_if_it_were_alone(model, embeddings):
    together = steer_embedding(model.description_head, embeddings, [NOISE])
    for one, found in zip(embeddings, together, strict=True):
        torch.testing.assert_close(steer_embedding(model.description_head, one[None], [NOISE])[0], found)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_steering_works_where_gradients_are_off_and_leaves_none(model, embeddings, context):
    with context():
        steered = steer_embedding(model.description_head, embeddings + 0, [NOISE])
    torch.testing.assert_close(steered, steer_embedding(model.description_head, embeddings, [NOISE]))
    assert not steered.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_embedding_keeps_its_dtype(model, embeddings):
    assert steer_embedding(model.description_head, embeddings.bfloat16(), [NOISE]).dtype == torch.bfloat16


# Which kinds


def test_only_keeps_all_others():
    config = DPMambaIRConfig(has_description=True, reads_description=True)
    assert choose_kept(config) == ()
    assert choose_kept(config, keep=["snow", "haze"]) == ("haze", "snow")
    assert choose_kept(config, only=["haze", "noise"]) == ("rain", "snow", "low_light", "blur", "jpeg")
    assert choose_kept(config, only=KINDS) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["haze"], "keep": ["snow"]}, "`only` must not stand beside `keep`, got both; leave one of them out"),
        ({"only": ["haze", "fog"]}, f"`only` must be some of {', '.join(KINDS)}, got fog; check the spelling"),
        ({"keep": [""]}, f"`keep` must be some of {', '.join(KINDS)}, got ; check the spelling"),
    ],
)
def test_impossible_choice_is_an_error(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        choose_kept(DPMambaIRConfig(has_description=True, reads_description=True), **options)


@pytest.mark.parametrize("name", ["only", "keep"])
def test_a_model_that_does_not_read_its_description_cannot_be_steered(name):
    message = f"^`{name}` must be left out for a model that does not read its description, got it; take one with "
    with pytest.raises(ValueError, match=message):
        choose_kept(small_config(has_description=True), **{name: ["haze"]})
