"""The one restorer, with random weights: it restores nothing, but as the model and the processor say."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_dpmambair import DPMambaIRImageProcessor, DPMambaIRModel, Restorer, read_picture, restore_tiled
from modeling_dpmambair.large_pictures_dpmambair import bytes_needed
from modeling_dpmambair.restorer_dpmambair import choose_device, choose_dtype
from modeling_dpmambair.steering_dpmambair import steer_embedding
from tests.modeling_dpmambair.models import small_model
from tests.odd_pictures import rgb_profile
from tests.restoring import photograph, save, save_random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def restorer(folder):
    return Restorer.from_pretrained(folder, "cpu", "float32")


@pytest.fixture(scope="module")
def describing():
    torch.manual_seed(0)
    return Restorer(small_model(has_description=True, reads_description=True), DPMambaIRImageProcessor())


# Restoring


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 9), (33, 1)])
def test_restored_picture_is_the_models_clamped_and_rounded(restorer, size):
    degraded = photograph(size)
    pixels = torch.from_numpy(np.asarray(degraded, np.float32) / 255).permute(2, 0, 1)[None].contiguous()
    with torch.no_grad():
        expected = restorer.model(pixels).reconstruction[0].permute(1, 2, 0).numpy()
    restored = restorer(degraded)
    assert (restored.mode, restored.size) == ("RGB", size)
    np.testing.assert_array_equal(restored, np.clip(np.rint(expected * 255), 0, 255))
    assert np.abs(np.subtract(restored, degraded, dtype=int)).max() > 1  # the model does something


def test_every_form_of_a_picture_is_restored_alike(restorer, tmp_path):
    picture, path = photograph(), save(tmp_path / "photo.png")
    for form in (path, path.read_bytes(), np.asarray(picture), np.asarray(picture) / 255):
        np.testing.assert_array_equal(restorer(form), restorer(picture))


def test_alpha_and_colour_profile_come_back(restorer):
    degraded = photograph(mode="RGBA")
    degraded.putalpha(degraded.getchannel("A").point(lambda level: max(level, 1)))
    degraded.info["icc_profile"] = rgb_profile()
    restored = restorer(degraded)
    np.testing.assert_array_equal(restored.getchannel("A"), degraded.getchannel("A"))
    np.testing.assert_array_equal(restored.convert("RGB"), restorer(degraded.convert("RGB")))
    assert restored.info["icc_profile"] == rgb_profile()
    assert "icc_profile" not in restorer(photograph()).info


def test_sixteen_bits_stay_sixteen(restorer):
    levels = np.random.default_rng(0).integers(0, 65536, (16, 24, 3), np.uint16)
    restored = restorer.restore_picture(read_picture(levels / 65535))
    pixels = torch.from_numpy(levels / 65535).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = restorer.model(pixels).reconstruction[0].permute(1, 2, 0).clamp(0, 1).mul(65535).round().numpy()
    found = restored.levels(16)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found % 257)) > 200  # no multiples of the levels of 8 bits


def test_colours_under_transparent_pixels_leak_nowhere(restorer):
    levels = np.asarray(photograph((24, 16), "RGBA")).copy()
    levels[..., 3] = 255
    levels[4:12, 4:20, 3] = 0
    other = levels.copy()
    other[4:12, 4:20, :3] = (0, 255, 0)
    restored, again = (np.asarray(restorer(Image.fromarray(each))) for each in (levels, other))
    visible = levels[..., 3] > 0
    np.testing.assert_array_equal(restored[visible], again[visible])
    np.testing.assert_array_equal(again[~visible], other[~visible])
    assert (restored[visible] != levels[visible]).any()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_what_has_no_colour_gets_none(restorer, mode):
    restored = restorer(photograph(mode="L").convert(mode))
    assert restored.mode == mode
    levels = np.asarray(restored.convert("RGB"))
    assert (levels == levels[..., :1]).all()
    colours = restorer.restore(read_picture(photograph(mode="L")).pixels[None]).reconstruction[0]
    assert (colours[0] - colours[2]).abs().max() > 1 / 255  # which the network itself would have given
    np.testing.assert_allclose(levels[..., 0], colours.mean(0).clamp(0, 1).mul(255).round().numpy(), atol=1)


def make_animation(*seeds):
    frames = [read_picture(photograph(seed=seed)) for seed in seeds]
    return dataclasses.replace(frames[0], later=tuple(frames[1:]))


def test_frames_of_an_animation_share_one_embedding(restorer):
    animation = make_animation(0, 1, 0)
    restored = restorer.restore_picture(animation)
    extractor = restorer.model.extractor
    with torch.no_grad():
        each = [extractor(frame.pixels[None]).degradation_embedding for frame in animation.frames]
    assert (each[0] - each[1]).abs().max() > 1e-3
    mean = torch.stack(each).mean(0)
    torch.testing.assert_close(restorer.embed(animation), mean)
    for frame, found in zip(animation.frames, restored.frames, strict=True):
        expected = restorer.restore(frame.pixels[None], degradation_embedding=mean).reconstruction[0]
        torch.testing.assert_close(found.pixels, expected.clamp(0, 1), rtol=0, atol=1e-5)
    # What does not change in the animation does not flicker.
    assert torch.equal(restored.frames[0].pixels, restored.frames[2].pixels)


def test_embedding_may_be_given(restorer):
    picture, other = read_picture(photograph()), read_picture(photograph(seed=1))
    by_itself = restorer.restore_picture(picture)
    given = restorer.restore_picture(picture, degradation_embedding=restorer.embed(picture))
    torch.testing.assert_close(given.pixels, by_itself.pixels, rtol=0, atol=1e-5)
    steered = restorer.restore_picture(picture, degradation_embedding=restorer.embed(other))
    assert not torch.equal(steered.pixels, by_itself.pixels)


def test_strength_scales_the_correction(restorer):
    np.testing.assert_array_equal(restorer(photograph(), strength=0), photograph())
    full, half = (np.asarray(restorer(photograph(), strength=each)).astype(float) for each in (1, 0.5))
    inside = (full > 0) & (full < 255)
    assert np.abs(half - (full + np.asarray(photograph())) / 2)[inside].max() <= 1


# Control


def test_kinds_that_stay_leave_the_embedding_and_the_report_as_they_were(describing):
    pixels = read_picture(photograph()).pixels[None]
    whole, kept = describing.restore(pixels), describing.controlled(keep=["noise"]).restore(pixels)
    assert not torch.equal(kept.reconstruction, whole.reconstruction)
    # What is told of the picture is what it was.
    torch.testing.assert_close(kept.degradation_embedding, whole.degradation_embedding)
    with torch.no_grad():
        steered = steer_embedding(describing.model.description_head, whole.degradation_embedding, [2])
        expected = describing.model(pixels, degradation_embedding=steered).reconstruction
    torch.testing.assert_close(kept.reconstruction, expected)


def test_only_and_keep_are_two_ways_to_say_the_same(describing):
    only = describing.controlled(only=["haze", "rain"])(photograph())
    np.testing.assert_array_equal(only, describing.controlled(keep=["noise"])(photograph()))


def test_frames_of_an_animation_are_steered_alike(describing):
    restored = describing.controlled(keep=["haze"]).restore_picture(make_animation(0, 1, 0))
    assert torch.equal(restored.frames[0].pixels, restored.frames[2].pixels)


def test_a_kind_that_the_model_does_not_know_is_an_error(describing, restorer):
    with pytest.raises(ValueError, match="^`only` must be some of haze, .*, got fog; check the spelling$"):
        describing.controlled(only=["fog"])
    with pytest.raises(ValueError, match="^`keep` must be left out for a model that does not read its description"):
        restorer.controlled(keep=["haze"])


@pytest.mark.parametrize("size", [(24, 16), (13, 9)])
def test_self_ensemble_is_the_mean_over_flips_and_turns(restorer, size):
    levels, steps = np.asarray(photograph(size)), []
    embedding = restorer.embed(read_picture(levels))
    turned = [np.rot90(side, turns) for side in (levels, levels[:, ::-1]) for turns in range(4)]
    results = [
        restorer.restore(read_picture(each).pixels[None], degradation_embedding=embedding).reconstruction[0]
        for each in turned
    ]
    back = [np.rot90(each.permute(1, 2, 0), -place % 4) for place, each in enumerate(results)]
    expected = np.mean(back[:4] + [each[:, ::-1] for each in back[4:]], 0)
    found = restorer.controlled(self_ensemble=True).restore(
        read_picture(levels).pixels[None], progress=lambda *step: steps.append(step)
    )
    np.testing.assert_allclose(found.reconstruction[0].permute(1, 2, 0), expected, atol=1e-5)
    torch.testing.assert_close(found.degradation_embedding, embedding)
    assert steps == [(done, 8) for done in range(1, 9)]


def test_self_ensemble_restores_a_turned_picture_as_the_upright_one(restorer):
    ensemble, pixels = restorer.controlled(self_ensemble=True), read_picture(photograph()).pixels[None]
    embedding = restorer.embed(read_picture(photograph()))
    upright, turned = (
        ensemble.restore(each, degradation_embedding=embedding).reconstruction
        for each in (pixels, pixels.rot90(1, (2, 3)))
    )
    torch.testing.assert_close(turned.rot90(-1, (2, 3)), upright, rtol=0, atol=1e-5)


# Large pictures and computing


def test_picture_beyond_the_budget_is_restored_in_tiles(restorer):
    degraded, steps = photograph((16, 300)), []
    budget = bytes_needed(restorer.model, 16 * 160)
    short = dataclasses.replace(restorer, memory_budget=budget)
    restored = short(degraded, progress=lambda *step: steps.append(step))
    pixels = restorer.processor(images=degraded, return_tensors="pt")
    expected = restore_tiled(restorer.model, **pixels, memory_budget=budget).reconstruction
    np.testing.assert_array_equal(restored, restorer.processor.post_process(expected)[0])
    assert len(steps) == steps[-1][0] == steps[-1][1] > 2


def test_bfloat16_and_float32_agree_roughly(folder, restorer):
    degraded = photograph((80, 64))
    half = Restorer.from_pretrained(folder, "cpu", "bfloat16")
    difference = np.abs(np.subtract(half(degraded), restorer(degraded), dtype=int))
    assert half.model.dtype == torch.float32
    assert 0 < difference.mean() < 4


def test_autocast_of_the_caller_holds(folder, restorer):
    degraded = photograph((64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        restored = restorer(degraded)
    np.testing.assert_array_equal(restored, Restorer.from_pretrained(folder, "cpu", "bfloat16")(degraded))
    assert not np.array_equal(restored, restorer(degraded))


@pytest.mark.parametrize("size", [(3, 80), (80, 3)])
def test_narrow_pictures_are_computed_in_float32(folder, restorer, size):
    mixed = Restorer.from_pretrained(folder, "cpu", "bfloat16")
    np.testing.assert_array_equal(mixed(photograph(size)), restorer(photograph(size)))
    narrow = read_picture(photograph(size))
    torch.testing.assert_close(mixed.embed(narrow), restorer.embed(narrow), rtol=0, atol=0)


def test_values_that_are_not_finite_are_an_error(folder):
    broken = Restorer.from_pretrained(folder, "cpu", "float32")
    broken.model.network.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="^the model returned values that are not finite; try dtype float32$"):
        broken(photograph())


# Loading


def test_model_is_loaded_for_restoring_and_named_by_a_text_too(folder):
    restorer = Restorer.from_pretrained(str(folder), memory_budget=7)
    assert not restorer.model.training
    assert restorer.memory_budget == 7


def test_extractor_alone_is_refused(restorer, tmp_path):
    restorer.model.extractor.save_pretrained(tmp_path)
    DPMambaIRImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`model_type` must be dpmambair, got dpmambair_extractor; give a restorer$"):
        Restorer.from_pretrained(tmp_path)


def test_weights_must_be_complete(folder, tmp_path):
    DPMambaIRModel.from_pretrained(folder).save_pretrained(tmp_path)
    DPMambaIRImageProcessor().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.popitem()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="weights must be complete, got 1 missing; save the model again$"):
        Restorer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [None, b"{"])
def test_missing_and_broken_files_are_refused_in_one_line(folder, tmp_path, name, content):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^cannot load {tmp_path} on device cpu: [^\n]+$"):
        Restorer.from_pretrained(tmp_path, "cpu")


def test_unknown_device_and_dtype_are_refused(folder):
    with pytest.raises(ValueError, match="^cannot load .* on device abacus: "):
        Restorer.from_pretrained(folder, "abacus")
    with pytest.raises(ValueError, match="^`dtype` must be auto or one of float32, bfloat16, got float16; "):
        Restorer.from_pretrained(folder, "cpu", "float16")


def test_device_is_the_accelerator_if_there_is_one(monkeypatch):
    for found, expected in ((None, "cpu"), (torch.device("cuda"), "cuda")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda found=found, **_: found)
        assert choose_device("auto") == torch.device(expected)
    assert choose_device("cuda:1") == choose_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, torch.float32),
        ({"bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_automatic_dtype_follows_the_processor(monkeypatch, features, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert choose_dtype("auto", torch.device("cpu")) is dtype
    assert choose_dtype("float32", torch.device("cpu")) is torch.float32
