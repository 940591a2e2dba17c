"""Whole scenes: what an extractor is taught of them, and what stays."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dataset_scripts.synthetic_restoration import list_photographs
from modeling_dpmambair import DPMambaIRImageProcessor, DPMambaIRModel
from tests.modeling_dpmambair.models import assert_same_weights, pictures, randomized, small_model
from training import scenes
from training.scenes import FurtherUnits, Measures, Scenes, app, judge, measure, teach

KINDS = ("haze", "rain", "low_light")


@pytest.fixture
def model():
    extractor = {"head_dim": 5, "window": 24, "has_fine_statistics": True, "degradations": list(KINDS)}
    return small_model(extractor, has_description=True, reads_description=True).requires_grad_(False)


@pytest.fixture
def photographs(tmp_path):
    draw = np.random.default_rng(0)
    for place in range(4):
        levels = draw.integers(0, 256, (40, 60 + place, 3), np.uint8)
        Image.fromarray(levels).save(tmp_path / f"{place}.png")
    return tmp_path


def random_measures(model, count=7):
    """Measures of pictures of one to three windows."""
    draw = torch.Generator().manual_seed(0)
    picture = torch.repeat_interleave(torch.arange(count), torch.arange(count) % 3 + 1)
    statistics = torch.randn(len(picture), model.extractor.norm.mean.shape[0], generator=draw)
    severity = torch.rand(count, len(KINDS), generator=draw) * (torch.arange(count) % 2)[:, None]
    return Measures(statistics, picture, torch.randn(count, 8, generator=draw), severity)


def test_scenes_are_the_same_each_time_and_say_what_happened_to_them(photographs):
    drawn = Scenes(list_photographs([photographs]), KINDS)
    first, again = drawn[1], drawn[1]
    assert len(first) == scenes.UNDAMAGED + scenes.DAMAGED
    for (picture, severity), (same_picture, same_severity) in zip(first, again, strict=True):
        assert torch.equal(picture, same_picture)
        assert torch.equal(severity, same_severity)
    as_it_is = np.asarray(Image.open(photographs / "1.png"))
    np.testing.assert_array_equal((first[0][0][0] * 255).round().permute(1, 2, 0), as_it_is)
    assert not any(severity.any() for _, severity in first[: scenes.UNDAMAGED])
    assert all(severity.any() and severity.shape == (3,) for _, severity in first[scenes.UNDAMAGED :])
    # A part of the scene has at least its share of the sides, and nothing is enlarged.
    sides = np.array([picture.shape[2:] for picture, _ in first])
    assert (sides <= (40, 61)).all()
    assert (sides >= (24, 36)).all()
    assert len(np.unique(sides[:, 0])) > 3
    assert all(torch.equal(picture * 255, (picture * 255).round()) for picture, _ in first)


def test_measures_are_those_of_the_extractor(model, photographs):
    drawn = Scenes(list_photographs([photographs])[:2], KINDS)
    found = measure(model, drawn)
    whole = [each for place in range(2) for each in drawn[place]]
    embeddings = torch.cat([model.extractor(picture).degradation_embedding for picture, _ in whole])
    torch.testing.assert_close(found.embedding, embeddings)
    assert torch.equal(found.severity, torch.stack([severity for _, severity in whole]))
    # Of windows about 24 pixels high and wide; the mean of what the extractor maps them to is its embedding.
    assert torch.bincount(found.picture)[0] == 2 * 3
    extractor, hidden = model.extractor, model.extractor.head_hidden(found.statistics)
    mapped = extractor.head(found.statistics) + extractor.head_out(torch.nn.functional.gelu(hidden))
    means = torch.stack([mapped[found.picture == place].mean(0) for place in range(len(whole))])
    torch.testing.assert_close(means, embeddings)


def test_a_choice_of_pictures_takes_their_windows_along(model):
    measures, chosen = random_measures(model), torch.tensor([5, 0, 5, 2])
    found = measures.select(chosen)
    windows = [measures.statistics[measures.picture == place] for place in chosen]
    assert torch.equal(found.statistics, torch.cat(windows))
    assert found.picture.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(found.embedding, measures.embedding[chosen])
    assert torch.equal(found.severity, measures.severity[chosen])


def test_units_that_joined_a_restorer_do_in_it_what_they_did_beside_it(model, photographs):
    found = measure(model, Scenes(list_photographs([photographs])[:1], KINDS))
    units = FurtherUnits(found.statistics.shape[1], 6, 8).eval()
    torch.testing.assert_close(units(found), found.embedding)  # nothing at first
    randomized(units)
    joined = units.join(model)
    assert (joined.config.extractor_config.head_dim, model.config.extractor_config.head_dim) == (11, 5)
    assert not torch.allclose(units(found), found.embedding, atol=1e-3)
    torch.testing.assert_close(
        measure(joined, Scenes(list_photographs([photographs])[:1], KINDS)).embedding, units(found)
    )
    for part in ("network", "description_head", "extractor.stages"):
        assert_same_weights(joined.get_submodule(part), model.get_submodule(part))


@torch.no_grad()
def separable(model):
    """Pictures whose statistics tell what their embeddings do not: half of the undamaged look hazy to the head."""
    draw = torch.Generator().manual_seed(0)
    kind, count = torch.arange(600) % 4, 600  # 0: undamaged, 1: undamaged but taken for hazy, 2: hazy, 3: dark
    directions = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    looks = torch.tensor([0, 1, 1, 2])[kind]
    embedding = 3 * directions[looks] + 0.1 * torch.randn(count, 8, generator=draw)
    statistics = torch.randn(count, 20, generator=draw)
    statistics[:, :4] += 4 * torch.nn.functional.one_hot(kind, 4)
    severity = torch.zeros(count, len(KINDS))
    severity[kind == 2, 0] = severity[kind == 3, 2] = 0.5
    head = model.description_head
    optimizer = torch.optim.Adam(head.requires_grad_(True).parameters(), 0.02)
    taught = torch.nn.functional.one_hot(looks, 3)[:, [1, 1, 2]].float() * torch.tensor([1.0, 0.0, 1.0])
    with torch.enable_grad():
        for _ in range(200):
            presence, strength = head(embedding)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(presence, taught) + (
                (strength.sigmoid() - 0.5).square().mean()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    head.requires_grad_(False)
    return Measures(statistics, torch.arange(count), embedding, severity), kind


def test_undamaged_scenes_are_told_from_damaged_ones_and_these_stay_where_they_were(model):
    measures, kind = separable(model)
    before = judge(model, measures.embedding, measures.severity)
    assert before == {"undamaged_taken_for_damaged": 0.5, "degradations_missed": 0}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embedding = teach(model, measures, width=32, epochs=60)(measures).detach()
    after = judge(model, embedding, measures.severity)
    assert after["undamaged_taken_for_damaged"] < 0.05
    assert after["degradations_missed"] < 0.05
    norm = model.description_head.norm
    moved = (norm(embedding) - norm(measures.embedding)).square().mean(-1)
    assert moved[kind == 1].mean() > 10 * moved[kind >= 2].mean()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_teaching_needs_pictures_taken_for_undamaged(model):
    measures = random_measures(model)
    model.description_head.out_proj.bias[:3] = 9
    with pytest.raises(ValueError, match="`clean` must hold some photographs that the model takes for undamaged"):
        teach(model, measures, 4, 1)


@pytest.fixture
def saved(model, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "UNDAMAGED", 1)
    monkeypatch.setattr(scenes, "DAMAGED", 2)
    model.description_head.out_proj.weight.zero_()
    model.description_head.out_proj.bias[:3] = -4  # nothing damaged
    folder = tmp_path / "models" / "small"
    model.save_pretrained(folder)
    DPMambaIRImageProcessor().save_pretrained(folder)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_command_writes_a_restorer_and_its_record(saved, photographs, tmp_path):
    clean = tmp_path / "clean"
    clean.mkdir()
    for path in photographs.glob("*.png"):
        path.rename(clean / path.name)
    given = (saved, "--clean", clean, "--width", 4, "--epochs", 2, "--held-out-every", 3, "--workers", 0)
    result = run(*given, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    taught = DPMambaIRModel.from_pretrained(tmp_path / "out").eval()
    assert taught.config.extractor_config.head_dim == 9
    assert torch.isfinite(taught(pictures(1, 30, 30)).reconstruction).all()
    record = json.loads((tmp_path / "out" / "scenes.json").read_text())
    assert {name: record[name] for name in ("model", "photographs", "pictures", "held_out", "width", "epochs")} == {
        "model": "small", "photographs": 2, "pictures": 6, "held_out": 2, "width": 4, "epochs": 2
    }  # fmt: skip
    assert record["before"] == {"undamaged_taken_for_damaged": 0, "degradations_missed": 1}
    assert run(*given, "-o", tmp_path / "again").exit_code == 0
    assert_same_weights(taught, DPMambaIRModel.from_pretrained(tmp_path / "again"))
    assert "must be a new folder" in run(*given, "-o", tmp_path / "out").output


def test_command_refuses_a_model_that_cannot_be_taught(photographs, tmp_path):
    small_model(has_description=True).save_pretrained(tmp_path / "models")
    result = run(tmp_path / "models", "--clean", photographs, "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert "must read its description" in " ".join(result.output.replace("│", "").split())
    assert not (tmp_path / "out").exists()
