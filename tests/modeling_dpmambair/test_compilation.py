import pytest
import torch
from torch.export import Dim

from tests.modeling_dpmambair.models import pictures, small_model

SWITCHES = {
    "modulation": {},
    "no prompts, no HEB": {"prompts": [], "has_heb": False},
    "concatenation": {"prompts": [], "insertion": "concatenation"},
    "attention": {"prompts": [], "insertion": "attention"},
    "class labels": {"embedding_source": "class_label"},
    "given embedding": {"embedding_source": "given"},
    "two directions": {"scan_directions": 2, "prompts": ["delta", "B"]},
    "zero-order hold": {"discretization": "zoh"},
    "merged, fine-tuned extractor": {"extractor": {"is_merged": True}, "freeze_extractor": False},
}
# Both sides reach 16 or more after padding, as torch.export treats a side of length 1, here the latent's, as fixed.
EXPORTED_SIZES = [(9, 9), (16, 24), (19, 33), (9, 100), (64, 40)]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def arguments(model, batch=2):
    """What the model's source of embeddings asks of the caller."""
    sources = {
        "class_label": {"class_labels": torch.arange(batch)},
        "given": {"degradation_embedding": torch.randn(batch, model.config.extractor_config.embedding_dim)},
    }
    return sources.get(model.config.embedding_source, {})


def gradients(model, call, degraded, **options):
    """The loss and the gradient of every trainable parameter."""
    model.zero_grad()
    loss = call(degraded, labels=degraded.flip(0), **options).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: each.grad for name, each in model.named_parameters() if each.requires_grad}


def check_compiled(model, degraded, backend, has_gradients=True):
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    options = arguments(model)
    with torch.no_grad():
        expected = model(degraded, **options)
        result = compiled(degraded, **options)
    assert (expected.reconstruction - degraded).abs().max() > 0.1
    torch.testing.assert_close(result.reconstruction, expected.reconstruction, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.degradation_embedding, expected.degradation_embedding)
    if has_gradients:
        check_gradients(model, compiled, degraded)


def check_gradients(model, compiled, degraded):
    options = arguments(model)
    ours = gradients(model, compiled, degraded, **options)
    theirs = gradients(model, model, degraded, **options)
    for name, gradient in theirs.items():
        scale = gradient.abs().max().clamp_min(1e-4)
        assert (ours[name] - gradient).abs().max() <= 1e-4 * scale, name


@pytest.mark.ci
@pytest.mark.slow
def test_whole_graph_compiles_and_differentiates_like_eager():
    model = small_model()
    check_gradients(model, torch.compile(model, fullgraph=True, backend="aot_eager"), pictures(2, 11, 18))


@pytest.mark.slow
@pytest.mark.parametrize("changes", list(SWITCHES.values()), ids=list(SWITCHES))
def test_whole_graph_of_every_switch_compiles_like_eager(changes):
    check_compiled(small_model(**changes), pictures(2, 16, 24), "aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what inductor's code generation imports
def test_inductor_agrees_with_eager():
    # Without gradients, whose kernels would take minutes to build.
    check_compiled(small_model(), pictures(2, 11, 18), "inductor", has_gradients=False)


@pytest.mark.slow
def test_compiled_autocast_agrees_with_eager():
    model, degraded = small_model(), pictures(2, 11, 18)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, result = model(degraded).reconstruction, compiled(degraded).reconstruction
    assert (result - expected).std() <= 0.02 * (expected - degraded).std()


@pytest.mark.slow
def test_compiled_model_serves_other_sizes():
    model = small_model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for size in EXPORTED_SIZES:
        degraded = pictures(1, *size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(degraded).reconstruction, model(degraded).reconstruction)


def export(model, degraded, options):
    """Export with dynamic height and width; without gradients, whose states the program would carry along."""
    shapes = {"pixel_values": {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, **dict.fromkeys(options)}
    with torch.no_grad():
        return torch.export.export(model, (), {"pixel_values": degraded, **options}, dynamic_shapes=shapes)


def check_exported(program, model, options):
    restore = program.module()
    for size in EXPORTED_SIZES:
        degraded = pictures(2, *size)
        with torch.no_grad():
            result = restore(pixel_values=degraded, **options)
            expected = model(degraded, **options)
        torch.testing.assert_close(result.reconstruction, expected.reconstruction, rtol=0, atol=1e-5)
        torch.testing.assert_close(result.degradation_embedding, expected.degradation_embedding)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(19, 33), (16, 24)], ids=str)
def test_exported_program_serves_sizes_that_eight_divides_or_not(size):
    model = small_model()
    program = export(model, pictures(2, *size), {})
    assert "torch.ops.dpmambair.selective_scan.default" in program.graph_module.code
    check_exported(program, model, {})


@pytest.mark.slow
@pytest.mark.parametrize("changes", list(SWITCHES.values())[1:], ids=list(SWITCHES)[1:])
def test_every_switch_exports(changes):
    model = small_model(**changes)
    options = arguments(model)
    check_exported(export(model, pictures(2, 19, 33), options), model, options)


@pytest.mark.slow
def test_exported_program_survives_its_file(tmp_path):
    model = small_model()
    torch.export.save(export(model, pictures(2, 19, 33), {}), tmp_path / "restorer.pt2")
    check_exported(torch.export.load(tmp_path / "restorer.pt2"), model, {})
