"""Any size and any content: what holds for every picture, tried on what hypothesis draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_dpmambair import DPMambaIRImageProcessor, Restorer, restore_tiled
from tests.modeling_dpmambair.models import small_model

# Drawn alike on every machine; the first call of a kernel compiles it, so no example has a deadline.
many = settings(max_examples=25, deadline=None, derandomize=True)
SIDES = st.integers(1, 70)
CONTENTS = st.sampled_from(["noise", "black", "white", "grey", "steps", "one pixel", "tiny values"])
MODELS = {
    "paper": {},
    "zoh, two directions": {"discretization": "zoh", "scan_directions": 2},
    "light": {"has_film": True, "has_linear_resampling": True, "has_summed_skips": True, "first_mixer_level": 1},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    return small_model(**MODELS[request.param])


@pytest.fixture(scope="module")
def restorer(model):
    return Restorer(model, DPMambaIRImageProcessor())


def draw(content, height, width, seed=0, batch=1):
    """Return pictures of a content, (B, 3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, 3, height, width, generator=generator)
    if content in ("black", "white", "grey"):
        return torch.full_like(noise, {"black": 0.0, "white": 1.0, "grey": 0.5}[content])
    if content == "steps":
        return (noise > 0.5).float()
    if content == "one pixel":
        return torch.zeros_like(noise).index_fill_(3, torch.tensor([width // 2]), 1.0)
    return noise * 1e-38 if content == "tiny values" else noise


@torch.no_grad()
def restore(model, x, **options):
    return model(x, **options).reconstruction


@pytest.mark.ci
@pytest.mark.slow
@many
@given(height=SIDES, width=SIDES, content=CONTENTS)
def test_size_is_kept_and_all_is_finite_and_in_range(restorer, record, height, width, content):
    x = draw(content, height, width)
    output = restore(restorer.model, x)
    assert output.shape == x.shape
    assert output.isfinite().all()
    levels = x[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    restored = restorer(Image.fromarray(np.ascontiguousarray(levels)))
    assert restored.size == (width, height)
    picture = restorer.processor.post_process(output)[0]
    assert (picture.mode, picture.size) == ("RGB", (width, height))
    expected = (
        output[0].permute(1, 2, 0).double().clamp(0, 1).numpy() * 255
    )  # what leaves the range is cut, not wrapped
    assert np.abs(np.asarray(picture, np.float64) - expected).max() < 0.51
    record("numbers", "size, finite, in range", 1, [])


@pytest.mark.ci
@pytest.mark.slow
@many
@given(height=SIDES, width=SIDES, content=CONTENTS)
def test_strength_nothing_is_the_identity(model, record, height, width, content):
    x = draw(content, height, width)
    assert torch.equal(restore(model, x, strength=0.0), x)
    record("numbers", "strength 0 is the identity", 1, [])


@pytest.mark.ci
@pytest.mark.slow
@many
@given(height=SIDES, width=SIDES, batch=st.integers(2, 4), seed=st.integers(0, 99))
def test_batches_equal_singles(model, record, height, width, batch, seed):
    x = draw("noise", height, width, seed, batch)
    singles = torch.cat([restore(model, each[None]) for each in x])
    torch.testing.assert_close(restore(model, x), singles, rtol=1e-4, atol=1e-5)
    record("numbers", "batch equals singles", 1, [])


@pytest.mark.ci
@pytest.mark.slow
@many
@given(height=st.integers(9, 120), width=SIDES, seed=st.integers(0, 99))
def test_the_same_picture_gives_the_same_on_any_number_of_threads(model, record, height, width, seed):
    x, before = draw("noise", height, width, seed), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(restore(model, x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[-1])
    for each in results[1:]:
        torch.testing.assert_close(each, results[0], rtol=1e-4, atol=1e-5)
    record("numbers", "any number of threads", 1, [])


@pytest.mark.ci
@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(rows=st.integers(300, 420), width=st.integers(8, 40), seed=st.integers(0, 99))
def test_tiles_that_overlap_far_enough_equal_the_whole(record, rows, width, seed):
    torch.manual_seed(0)
    model, x = small_model(has_heb=False), draw("noise", rows, width, seed)  # HEB reads means, which tiles estimate
    tiled = restore_tiled(model, x, tile=(296, 40), overlap=144).reconstruction
    torch.testing.assert_close(tiled, restore(model, x), rtol=1e-3, atol=1e-3)
    record("numbers", "tiles equal the whole", 1, [])


@pytest.mark.ci
@pytest.mark.slow
@settings(max_examples=10, deadline=None, derandomize=True)
@given(height=st.integers(1, 40), width=st.integers(1, 40), content=CONTENTS, is_mixed=st.booleans())
def test_gradients_are_finite_under_autocast(model, record, height, width, content, is_mixed):
    x, labels = draw(content, height, width), draw("noise", height, width, 1)
    model.train()
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            loss = model(x, labels=labels).loss
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        assert loss.isfinite()
        assert gradients
        assert all(each.isfinite().all() for each in gradients)
    finally:
        model.zero_grad()
        model.eval()
    record("numbers", "finite gradients", 1, [])
