"""Doubt: what is sure is restored as before, and what is unsure is left as an undamaged picture is."""

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from modeling_dpmambair import DPMambaIRImageProcessor, DPMambaIRModel
from tests.modeling_dpmambair.models import pictures, small_model
from training.doubt import app, doubt


@torch.no_grad()
def find(model, **presence):
    """Let a model find in every picture what is given, from 0 to 1, and nothing else."""
    kinds, out = model.config.extractor_config.degradations, model.description_head.out_proj
    out.weight[: len(kinds)] = 0
    out.bias[: len(kinds)] = torch.tensor([presence.get(kind, 1e-4) for kind in kinds]).logit()
    return model


@pytest.fixture
def model():
    return find(small_model(has_description=True, reads_description=True))


@torch.no_grad()
def test_a_new_model_that_could_doubt_does_not(model):
    doubting = DPMambaIRModel(type(model.config).from_dict(model.config.to_dict() | {"has_doubt": True}))
    doubting.load_state_dict(model.state_dict(), strict=False)
    embedding = torch.randn(3, 8)
    torch.testing.assert_close(doubting.description_head.read(embedding), model.description_head.read(embedding))


@torch.no_grad()
@pytest.mark.parametrize(
    ("presence", "certainty"),
    [
        ({}, 0),
        ({"haze": 0.19}, 0),
        ({"haze": 0.35}, 0.5),
        ({"haze": 0.51}, 1),
        ({"rain": 0.35}, 0.5),
        ({"noise": 0.125}, 0.5),
        ({"haze": 0.3, "rain": 0.5}, 1),  # the surest counts
    ],
)
def test_conditions_go_over_into_those_of_undamaged_pictures_as_certainty_falls(model, presence, certainty):
    known, embedding = torch.randn(5, 8), torch.randn(2, 8)
    undamaged = model.description_head.read(known).mean(0)
    head = find(doubt(model, known), **presence).description_head
    head.has_doubt = False
    found = head.read(embedding)
    head.has_doubt = True
    torch.testing.assert_close(head.read(embedding), undamaged + certainty * (found - undamaged), atol=1e-5, rtol=0)


@torch.no_grad()
def test_only_photographs_taken_for_undamaged_tell_what_these_are_like(model):
    head = model.description_head
    head.out_proj.weight[0] = torch.randn(head.out_proj.in_features) * 20  # haze now differs from one to the next
    known = torch.randn(40, 8)
    is_hazy = head(known)[0][:, 0].sigmoid() >= 0.1
    assert 0 < is_hazy.sum() < 40
    torch.testing.assert_close(doubt(model, known).description_head.undamaged, head.read(known[~is_hazy]).mean(0))


@torch.no_grad()
def test_doubting_twice_is_doubting_once(model):
    once, again = torch.randn(2, 5, 8)
    first = doubt(model, again)
    second = doubt(doubt(model, once), again)
    torch.testing.assert_close(second.description_head.undamaged, first.description_head.undamaged)


def test_models_and_photographs_that_tell_nothing_are_refused(model):
    with pytest.raises(ValueError, match="`model` must read its description to doubt it"):
        doubt(small_model(has_description=True), torch.randn(4, 8))
    with pytest.raises(ValueError, match="`clean` must hold some photographs .* got 4 others; give more"):
        doubt(find(model, haze=0.5), torch.randn(4, 8))


def test_the_command_writes_a_model_that_leaves_what_it_is_unsure_of(model, tmp_path):
    (tmp_path / "clean").mkdir()
    for seed in range(3):
        Image.effect_noise((24, 20), 50 + 20 * seed).convert("RGB").save(tmp_path / "clean" / f"{seed}.png")
    model.save_pretrained(tmp_path / "model")
    DPMambaIRImageProcessor().save_pretrained(tmp_path / "model")
    paths = [str(tmp_path / "model"), "--clean", str(tmp_path / "clean"), "-o", str(tmp_path / "out"), "--every", "1"]
    result = CliRunner().invoke(app, paths)
    assert result.exit_code == 0, result.output
    doubting, degraded = DPMambaIRModel.from_pretrained(tmp_path / "out").eval(), pictures(2, 16, 16)
    embeddings = torch.randn(2, 8)
    with torch.no_grad():
        # Of one picture, whatever its embedding: all are undamaged.
        one, other = (doubting(degraded[:1], degradation_embedding=each[None]).reconstruction for each in embeddings)
        assert torch.equal(one, other)
        sure = find(doubting, haze=0.99)(degraded, degradation_embedding=embeddings).reconstruction
        expected = find(model, haze=0.99)(degraded, degradation_embedding=embeddings).reconstruction
    torch.testing.assert_close(sure, expected)
    again = CliRunner().invoke(app, paths)
    assert "`output` must be a new folder" in " ".join(again.output.split())
