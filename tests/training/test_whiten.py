"""Whitening: the embedding changes, the model does not."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from modeling_dpmambair import (
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRModel,
)
from modeling_dpmambair.block_dpmambair import PromptMap
from tests.modeling_dpmambair.models import pictures, randomized, small_extractor_config, small_model
from training.whiten import app, draw_embeddings, find_whitening, load, restart_prompts, whiten


def embeddings_of(extractor, samples=64):
    """Embed pictures that differ in brightness and contrast."""
    draw = torch.Generator().manual_seed(0)
    light, contrast = torch.rand(2, samples, 1, 1, 1, generator=draw)
    with torch.no_grad():
        return extractor(light * (1 - contrast * torch.rand(samples, 3, 16, 16, generator=draw))).degradation_embedding


def test_whitened_samples_have_no_mean_and_the_identity_as_covariance():
    draw = torch.Generator().manual_seed(0)
    samples = torch.randn(5000, 4, generator=draw) @ torch.randn(4, 4, generator=draw) + 3
    matrix, mean = find_whitening(samples)
    whitened = ((samples.double() - mean) @ matrix.T).numpy()
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(4), atol=0.15)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"has_film": True},
        {"insertion": "concatenation", "prompts": []},
        {"insertion": "attention", "prompts": []},
    ],
)
def test_restorer_stays_the_same_while_its_embedding_spreads(changes):
    model = randomized(small_model(**changes)).eval()
    x = pictures(2, 24, 16)
    with torch.no_grad():
        before = model(x)
        whiten(model, embeddings_of(model.extractor))
        after = model(x)
    torch.testing.assert_close(after.reconstruction, before.reconstruction, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(after.degradation_embedding, before.degradation_embedding, atol=0.1)


def test_reconstruction_unit_stays_the_same():
    model = randomized(DegradationExtractorForPreTraining(small_extractor_config(lpips_weight=0.0))).eval()
    degraded, clean = pictures(1, 16, 16), pictures(1, 16, 16).flip(-1)
    with torch.no_grad():
        torch.manual_seed(0)
        before = model(degraded, clean).reconstruction
        whiten(model, embeddings_of(model.extractor))
        torch.manual_seed(0)
        after = model(degraded, clean).reconstruction
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_head_that_pretrained_along_is_refused_and_left_out_by_the_command(tmp_path):
    model = randomized(DegradationExtractorForPreTraining(small_extractor_config(description_weight=0.1)))
    with pytest.raises(ValueError, match="`model` must hold an extractor and no head that describes"):
        whiten(model, torch.randn(8, 8))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    whiten(loaded, embeddings_of(loaded.extractor))
    assert (loaded.config.description_weight, loaded.description_head) == (0, None)


def test_restarted_prompts_are_the_mean_of_the_old_ones_for_every_picture():
    model = randomized(small_model()).eval()
    embeddings = embeddings_of(model.extractor)
    old = [prompt for prompt in model.modules() if isinstance(prompt, PromptMap)]
    means = [prompt(embeddings).mean(0) for prompt in old]
    restart_prompts(model, embeddings)
    for prompt, mean in zip(old, means, strict=True):
        torch.testing.assert_close(prompt(embeddings), mean.expand(len(embeddings), -1))
    model(pictures(1, 16, 16)).reconstruction.sum().backward()
    assert all(prompt.out_proj.weight.grad.abs().sum() > 0 for prompt in old)


def test_prompts_of_a_model_without_any_cannot_be_restarted():
    with pytest.raises(ValueError, match="`model` must be a restorer with prompts"):
        restart_prompts(small_model(prompts=[]), torch.randn(8, 4))


def test_model_without_extractor_is_refused():
    with pytest.raises(ValueError, match="`model` must hold an extractor and no head that describes"):
        whiten(small_model(embedding_source="given"), torch.randn(8, 4))


@pytest.mark.ci
@pytest.mark.slow
def test_command_writes_a_model_that_restores_the_same(tmp_path):
    for seed in range(16):
        noise = np.random.default_rng(seed).integers(256, size=(40, 40, 3), dtype=np.uint8)
        (tmp_path / "clean").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "clean" / f"{seed}.png")
    model = randomized(small_model()).eval()
    model.save_pretrained(tmp_path / "model")
    arguments = ["model", "--clean", "clean", "-o", "out", "--samples", "256", "--patch", "16"]
    paths = [str(tmp_path / each) if each in ("model", "clean", "out") else each for each in arguments]
    result = CliRunner().invoke(app, paths)
    assert result.exit_code == 0, result.output
    whitened, x = DPMambaIRModel.from_pretrained(tmp_path / "out").eval(), pictures(1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(whitened(x).reconstruction, model(x).reconstruction, rtol=1e-3, atol=1e-3)
    found = draw_embeddings(whitened.extractor, [tmp_path / "clean"], 256, 16)
    assert found.var(0).max() < 1.2
    again = CliRunner().invoke(app, paths)
    assert "`output` must be a new folder" in " ".join(again.output.split())


def test_command_refuses_a_broken_model_without_a_trace(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    paths = [str(tmp_path / "model"), "--clean", str(tmp_path), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, paths)
    assert (result.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "Invalid value" in result.output


def test_whitening_returns_what_the_extractor_embeds_from_now_on():
    extractor = randomized(DegradationExtractorModel(small_extractor_config())).eval()
    returned = whiten(extractor, embeddings_of(extractor))
    torch.testing.assert_close(returned, embeddings_of(extractor), rtol=1e-2, atol=1e-2)


def test_command_starts_prompts_that_see_all_directions_alike(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(16, 40, 40, 3), dtype=np.uint8)
    (tmp_path / "clean").mkdir()
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / "clean" / f"{number}.png")
    randomized(small_model()).save_pretrained(tmp_path / "model")
    options = ["--clean", tmp_path / "clean", "-o", tmp_path / "out", "--samples", 256, "--patch", 16]
    result = CliRunner().invoke(app, [str(each) for each in [tmp_path / "model", *options, "--restart-prompts"]])
    assert result.exit_code == 0, result.output
    model = DPMambaIRModel.from_pretrained(tmp_path / "out")
    prompts = [module for module in model.modules() if isinstance(module, PromptMap)]
    # The bound of torch's own start of a linear layer; folding the whitening in would leave it far behind.
    bound = prompts[0].in_proj.in_features ** -0.5
    assert max(prompt.in_proj.weight.abs().max() for prompt in prompts) <= bound
    assert not any(prompt.out_proj.weight.any() for prompt in prompts)


@pytest.mark.parametrize("head_dim", [None, 5])
def test_extractor_alone_is_whitened(head_dim):
    extractor = randomized(DegradationExtractorModel(small_extractor_config(head_dim=head_dim))).eval()
    whiten(extractor, embeddings_of(extractor))
    found = embeddings_of(extractor)
    torch.testing.assert_close(found.mean(0), torch.zeros(found.shape[1]), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({"embedding_source": "given"}, (), "`model` must hold an extractor"),
        ({"prompts": []}, ("--restart-prompts",), "`model` must be a restorer with prompts"),
    ],
)
def test_command_refuses_what_cannot_be_whitened_before_it_looks_at_pictures(tmp_path, changes, options, text):
    small_model(**changes).save_pretrained(tmp_path / "model")
    (tmp_path / "no_photographs").mkdir()
    paths = [tmp_path / "model", "--clean", tmp_path / "no_photographs", "--output", tmp_path / "out", *options]
    result = CliRunner().invoke(app, [str(each) for each in paths])
    assert result.exit_code == 2
    assert text in " ".join(result.output.replace("│", " ").split())
