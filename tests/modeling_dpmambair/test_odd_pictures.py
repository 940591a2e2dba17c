"""Odd pictures through restorer, pipeline and processor: with strength 0 all of them come back as they were.

The fast tests read every picture, and send it through the command line; the other doors are slow ones.
"""

from io import BytesIO

import numpy as np
import pytest
import torch

from modeling_dpmambair import (
    DPMambaIRImageProcessor,
    ImageRestorationPipeline,
    Restorer,
    read_picture,
    write_picture,
)
from tests.modeling_dpmambair.models import small_model
from tests.odd_pictures import ANIMATIONS, ODD_PICTURES, REFUSED, check_restored

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@pytest.fixture(scope="module")
def restorer():
    torch.manual_seed(0)
    return Restorer(small_model(), DPMambaIRImageProcessor())


@pytest.fixture(scope="module")
def pipeline(restorer):
    return ImageRestorationPipeline(restorer.model, image_processor=restorer.processor)


def write(picture):
    """Return the file of a picture, in the format that it had."""
    content = BytesIO()
    write_picture(picture, content)
    return content.getvalue()


def eight_bits(levels):
    return levels if levels.dtype == np.uint8 else np.rint(levels / 257).astype(np.uint8)


@pytest.mark.parametrize("odd", ODD_PICTURES, ids=str)
def test_what_is_read_is_what_other_programs_show(odd):
    picture = read_picture(odd.content)
    assert (picture.is_grey, picture.bit_depth) == (odd.is_grey, odd.bit_depth)
    assert picture.size == odd.first.shape[1::-1]
    levels = picture.levels(odd.bit_depth)
    assert levels.shape == odd.first.shape
    assert np.abs(np.subtract(levels, odd.first, dtype=int)).max() <= odd.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("odd", [*ODD_PICTURES, *ANIMATIONS], ids=str)
def test_restorer_gives_it_back_in_its_own_format(restorer, odd):
    check_restored(odd, write(restorer.restore_picture(read_picture(odd.content), strength=0)))


@pytest.mark.slow
@pytest.mark.parametrize("odd", [*ODD_PICTURES, *ANIMATIONS], ids=str)
def test_pipeline_gives_it_back_in_its_own_format(pipeline, odd):
    check_restored(odd, write(pipeline(odd.content, strength=0, return_picture=True)))


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD_PICTURES, ids=str)
def test_restorer_and_pipeline_show_it_in_eight_bits(restorer, pipeline, odd):
    for shown in (restorer(odd.content, strength=0), pipeline(odd.content, strength=0)):
        assert shown.mode == MODES[odd.first.shape[2]]
        levels = np.asarray(shown).reshape(odd.first.shape)
        assert np.abs(np.subtract(levels, eight_bits(odd.first), dtype=int)).max() <= odd.tolerance


@pytest.mark.parametrize("odd", ODD_PICTURES, ids=str)
def test_processor_gives_the_values_that_are_visible(restorer, odd):
    values = restorer.processor(odd.content, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()
    colours = odd.first[..., :-1] if odd.has_alpha else odd.first
    seen = odd.first[..., -1] > 0 if odd.has_alpha else np.full(values.shape[:2], True)
    top = np.iinfo(colours.dtype).max
    difference = values - colours / top
    assert np.abs(difference[seen]).max() <= odd.tolerance / top + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("odd", [odd for odd in ODD_PICTURES if odd.is_grey], ids=str)
def test_grey_is_restored_without_a_tint(restorer, odd):
    restored = restorer.restore_picture(read_picture(odd.content))
    assert restored.is_grey
    assert torch.equal(restored.pixels[0], restored.pixels[1])
    assert torch.equal(restored.pixels[0], restored.pixels[2])
    assert not torch.equal(restored.pixels, read_picture(odd.content).pixels)


@pytest.mark.parametrize("odd", ANIMATIONS, ids=str)
def test_animation_needs_a_door_that_returns_all_frames(restorer, pipeline, odd):
    message = "^`image` must have one frame, got 3; extract the frame to restore$"
    for door in (restorer, pipeline, restorer.processor):
        with pytest.raises(ValueError, match=message):
            door(odd.content)


@pytest.mark.parametrize("refused", REFUSED, ids=str)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_restored_is_refused_in_one_line(restorer, pipeline, refused):
    for door in (read_picture, restorer, pipeline, restorer.processor):
        with pytest.raises(refused.error, match=refused.message) as caught:
            door(refused.content)
        assert len(str(caught.value).splitlines()) == 1


def test_table_is_long():
    assert len({str(odd) for odd in ODD_PICTURES}) == len(ODD_PICTURES) >= 60
