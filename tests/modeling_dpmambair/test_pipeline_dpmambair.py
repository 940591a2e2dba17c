import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_dpmambair import (
    DPMambaIRImageProcessor,
    ImageRestorationPipeline,
    Restorer,
    read_picture,
    restore_tiled,
    write_picture,
)
from modeling_dpmambair.large_pictures_dpmambair import bytes_needed
from tests.modeling_dpmambair.models import small_model

TASK = "image-restoration"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("restorer")
    small_model(has_description=True, reads_description=True).save_pretrained(place)
    DPMambaIRImageProcessor().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def restore(folder):
    return pipeline(TASK, model=str(folder))


def levels(height=11, width=18, seed=0):
    """Random pixels, (H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_folder_becomes_the_registered_pipeline(restore):
    assert type(restore) is ImageRestorationPipeline
    assert TASK in PIPELINE_REGISTRY.get_supported_tasks()
    assert not restore.model.training


def test_restored_picture_is_the_models_and_the_processors(restore):
    picture = Image.fromarray(levels())
    inputs = restore.image_processor(images=picture, return_tensors="pt")
    with torch.no_grad():
        expected = restore.image_processor.post_process(restore.model(**inputs).reconstruction)[0]
    restored = restore(picture)
    assert (restored.mode, restored.size) == ("RGB", (18, 11))
    assert np.array_equal(restored, expected)
    assert not np.array_equal(restored, picture)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_form_of_one_picture_gives_one_restoration(restore, tmp_path, dtype):
    pixels = levels()
    path = save(tmp_path / "degraded.png", Image.fromarray(pixels))
    expected = np.asarray(restore(Image.fromarray(pixels))).astype(int)
    for form in (pixels, path, str(path), path.read_bytes(), read_picture(path)):
        assert np.array_equal(restore(form), expected), type(form)
    # Sixteen-bit floats hold 255 levels to within a fifth of a level.
    assert np.abs(np.asarray(restore((pixels / 255).astype(dtype))) - expected).max() <= (dtype == np.float16)


def test_floats_keep_more_than_eight_bits(restore):
    pixels = levels() / 255 + 0.4 / 255 * (levels() < 255)
    inputs = restore.preprocess(pixels)
    assert torch.equal(inputs["pixel_values"][0].permute(1, 2, 0), torch.from_numpy(pixels.astype(np.float32)))


def test_alpha_channel_comes_back(restore):
    degraded = Image.fromarray(levels()).convert("RGBA")
    degraded.putalpha(200)
    restored = restore(degraded)
    assert restored.mode == "RGBA"
    assert restored.getchannel("A").getextrema() == (200, 200)
    assert np.array_equal(restored.convert("RGB"), restore(levels()))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_picture_keeps_more_than_eight_bits_on_request(restore, batch_size):
    pixels = levels() / 255 + 0.4 / 255 * (levels() < 255)
    for found in restore([pixels, pixels], return_picture=True, strength=0, batch_size=batch_size):
        assert found.bit_depth == 16
        assert np.array_equal(found.levels(16), np.rint(pixels.astype(np.float32) * 65535))


def test_animation_comes_back_as_the_restorer_restores_it(restore):
    frames = [read_picture(levels(seed=seed)) for seed in (0, 1)]
    animation = dataclasses.replace(frames[0], later=(frames[1],))
    found = restore(animation, return_picture=True, return_description=True, strength=0.5)
    expected = Restorer(restore.model, restore.image_processor).restore_picture(animation, strength=0.5)
    for one, other in zip(found["image"].frames, expected.frames, strict=True):
        torch.testing.assert_close(one.pixels, other.pixels)
    assert list(found["degradations"]) == ["haze", "rain", "noise"]
    with pytest.raises(ValueError, match="^`batch_size` must be 1 for an animation, got more; restore it by itself$"):
        restore([animation, animation], return_picture=True, batch_size=2)


def test_array_of_three_rows_is_channels_last(restore):
    pixels = levels(3, 3) / 255
    assert torch.equal(restore.preprocess(pixels)["pixel_values"][0, 1], torch.from_numpy(pixels[..., 1]).float())


@pytest.mark.parametrize("batch_size", [1, 2])
def test_several_pictures_give_as_many_in_their_order(restore, tmp_path, batch_size):
    first, second = Image.fromarray(levels()), levels(seed=1)
    path = save(tmp_path / "third.png", Image.fromarray(levels(seed=2)))
    several = [first, second, path]
    expected = [restore(each) for each in several]
    for batch in (several, tuple(several)):
        restored = restore(batch, batch_size=batch_size)
        assert isinstance(restored, list)
        difference = [np.abs(np.subtract(a, b, dtype=int)).max() for a, b in zip(restored, expected, strict=True)]
        assert max(difference) <= (batch_size > 1)  # a batch's rounding may differ


def test_pictures_of_different_sizes_and_none_at_all(restore):
    assert [each.size for each in restore([levels(5, 9), levels(16, 8)])] == [(9, 5), (8, 16)]
    assert restore([]) == []


# Options


def test_strength_scales_the_correction(restore):
    pixels = levels()
    assert np.array_equal(restore(pixels, strength=0), pixels)
    assert np.array_equal(restore(pixels, strength=1), restore(pixels))
    full, half = (np.asarray(restore(pixels, strength=each)).astype(float) for each in (1, 0.5))
    inside = (full > 0) & (full < 255)
    assert np.abs(half - (full + pixels) / 2)[inside].max() <= 1
    assert np.abs(full - pixels).max() >= 2


def test_options_of_the_pipeline_hold_for_its_calls(folder):
    pixels = levels()
    nothing = pipeline(TASK, model=str(folder), strength=0)
    assert np.array_equal(nothing(pixels), pixels)
    assert not np.array_equal(nothing(pixels, strength=1), pixels)


def test_description_names_every_degradation(restore):
    pixels = levels()
    found = restore([pixels], return_description=True)[0]
    assert np.array_equal(found["image"], restore(pixels))
    expected = restore.model.describe(restore.preprocess(pixels)["pixel_values"])
    assert list(found["degradations"]) == ["haze", "rain", "noise"]
    for position, each in enumerate(found["degradations"].values()):
        assert each["presence"] == pytest.approx(expected.presence[0, position].item())
        assert each["severity"] == pytest.approx(expected.severity[0, position].item())
    json.dumps(found["degradations"])


def test_picture_beyond_the_budget_is_restored_in_tiles_and_described(restore):
    pixels, steps = levels(300, 12), []
    options = {"memory_budget": bytes_needed(restore.model, 16 * 160), "return_description": True}
    found = restore(pixels, **options, strength=0.5, progress=lambda *step: steps.append(step))
    inputs = {"pixel_values": restore.preprocess(pixels)["pixel_values"]}
    expected = restore_tiled(restore.model, **inputs, strength=0.5, memory_budget=options["memory_budget"])
    assert np.array_equal(found["image"], restore.image_processor.post_process(expected.reconstruction)[0])
    assert len(steps) == steps[-1][0] == steps[-1][1] > 2
    presence = restore.model.describe(**inputs).presence[0].tolist()
    assert [each["presence"] for each in found["degradations"].values()] == pytest.approx(presence, abs=1e-4)


def test_picture_within_the_budget_makes_one_step(restore):
    steps = []
    restore(levels(), progress=lambda *step: steps.append(step))
    assert steps == [(1, 1)]


def test_half_precision_model_restores_alike(folder, restore):
    half = pipeline(TASK, model=str(folder), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    pixels = levels()
    full = np.asarray(restore(pixels)).astype(float)
    assert np.std(half(pixels) - full) <= 0.1 * np.std(full - pixels)


# Errors


@pytest.mark.parametrize(("image", "error", "message"), [
    (levels().astype(np.int32), ValueError, "`image` must be uint8 or float, got int32; "),
    (levels()[..., 0], ValueError, r"`image` must be of shape \(H, W, 3\), got \(11, 18\); "),
    (torch.zeros(3, 8, 8), TypeError, "`image` must be a file, a PIL picture or an array, got Tensor; "),
    ("missing.png", FileNotFoundError, "missing.png"),
])  # fmt: skip
def test_what_is_no_picture_is_an_error(restore, image, error, message):
    with pytest.raises(error, match=message):
        restore(image)


def test_pipeline_brings_reader_and_writer_along(restore):
    assert restore.read_picture is read_picture
    assert restore.write_picture is write_picture


@pytest.mark.parametrize(("options", "message"), [
    ({"strength": -1}, r"`strength` must be a number from 0 up, got -1; "),
    ({"strength": float("nan")}, r"`strength` must be a number from 0 up, got nan; "),
    ({"strength": "high"}, r"`strength` must be a number from 0 up, got 'high'; "),
    ({"only": ["fog"]}, r"`only` must be some of haze, .*, got fog; check the spelling"),
    ({"only": ["haze"], "keep": ["rain"]}, r"`only` must not stand beside `keep`, got both; "),
    ({"memory_budget": 0}, r"`memory_budget` must be a positive number of bytes, got 0; "),
    ({"memory_budget": "2GB"}, r"`memory_budget` must be a positive number of bytes, got '2GB'; "),
])  # fmt: skip
def test_impossible_option_is_an_error(restore, options, message):
    with pytest.raises(ValueError, match=message):
        restore(levels(), **options)


@pytest.mark.parametrize(
    "control", [{"only": ["haze", "noise"]}, {"keep": ["rain"]}, {"self_ensemble": True}], ids=str
)
def test_control_is_the_restorers(restore, control):
    expected = Restorer(restore.model, restore.image_processor).controlled(**control)(levels())
    result = restore(levels(), return_description=True, **control)
    np.testing.assert_array_equal(result["image"], expected)
    assert not np.array_equal(expected, restore(levels()))
    # What is told of the picture is what it was.
    assert result["degradations"] == restore(levels(), return_description=True)["degradations"]


def test_unknown_option_is_an_error(restore):
    with pytest.raises(TypeError, match="strenght"):
        restore(levels(), strenght=1)


def test_model_without_a_describing_head_says_so_before_it_restores():
    plain = ImageRestorationPipeline(small_model(), image_processor=DPMambaIRImageProcessor())
    with pytest.raises(ValueError, match="`return_description` must be false for a model that cannot describe"):
        plain("missing.png", return_description=True)


def test_values_that_are_not_finite_are_an_error():
    model = small_model()
    torch.nn.init.constant_(model.network.conv_out.weight, torch.inf)
    with pytest.raises(FloatingPointError, match="values that are not finite"):
        ImageRestorationPipeline(model, image_processor=DPMambaIRImageProcessor())(levels())
