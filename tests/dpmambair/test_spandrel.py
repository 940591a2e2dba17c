import numpy as np
import pytest
import spandrel
import torch
from spandrel import ArchRegistry, ArchSupport, ImageModelDescriptor, ModelLoader, ModelTiling
from spandrel.__helpers.registry import UnsupportedModelError

from dpmambair import spandrel as support
from dpmambair.shipped import SHIPPED
from dpmambair.spandrel import DPMambaIRArch, read_config
from modeling_dpmambair import DPMambaIRModel
from tests.documents import code_blocks, run_python_block
from tests.modeling_dpmambair.models import pictures, small_config, small_model

WEIGHTS = SHIPPED / "model.safetensors"
# What weights show; the rest of a configuration, they do not.
SEEN = (
    "dim", "encoder_depths", "latent_depth", "decoder_depths", "refinement_depth", "d_state", "d_conv", "expand",
    "prompts", "insertion", "embedding_source", "scan_directions", "has_heb", "has_description", "has_film",
    "reads_description", "stem_dim", "first_mixer_level", "has_linear_resampling", "has_summed_skips",
)  # fmt: skip
SEEN_OF_EXTRACTOR = ("channels", "embedding_dim", "is_merged", "has_fine_statistics", "window", "head_dim")
VARIANTS = {
    "default": {},
    "two directions, two prompts": {"scan_directions": 2, "prompts": ["delta", "B"]},
    "concatenation": {"prompts": [], "insertion": "concatenation", "prompt_dim": 3},
    "attention, no HEB": {"prompts": [], "insertion": "attention", "has_heb": False},
    "depths and widths": {
        "dim": 6, "encoder_depths": [1, 2, 1], "decoder_depths": [3, 1, 2], "refinement_depth": 0, "d_conv": 5,
        "expand": 2, "ffn_ratio": 2.66, "prompt_dim": 5, "prompts": ["C"],
    },
    "merged, describing": {"extractor": {"is_merged": True}, "has_description": True},
    "as the light network": {
        "stem_dim": 6, "refinement_depth": 0, "first_mixer_level": 2, "ffn_ratio": 1.0, "has_film": True,
        "has_description": True, "reads_description": True, "has_linear_resampling": True, "has_summed_skips": True,
        "zero_start": "branches",
        "extractor": {"is_merged": True, "has_fine_statistics": True, "window": 192, "head_dim": 5},
    },
    "scan in the latent stage alone": {"first_mixer_level": 3, "prompts": [], "has_film": True},
    "a narrow stem, two directions": {"stem_dim": 2, "scan_directions": 2, "has_film": True},
    "summed skips, reading attention": {
        "has_summed_skips": True, "prompts": [], "insertion": "attention", "has_description": True,
        "reads_description": True,
    },
}  # fmt: skip


@pytest.fixture
def loader(monkeypatch):
    """A loader of spandrel's own architectures and ours; the process's registry stays as it is."""
    registry = spandrel.MAIN_REGISTRY.copy()
    monkeypatch.setattr(support, "MAIN_REGISTRY", registry)
    support.register()
    return ModelLoader(registry=registry)


def check_restores_like(descriptor, model, size=(11, 18)):
    degraded = pictures(1, *size)
    with torch.no_grad():
        expected = model(degraded).reconstruction
    assert (expected.clamp(0, 1) - degraded).abs().max() > 0.02
    torch.testing.assert_close(descriptor(degraded), expected.clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_file_of_weights_loads_and_restores_like_the_model(loader, tmp_path, changes):
    model = small_model(**changes)
    model.save_pretrained(tmp_path)
    descriptor = loader.load_from_file(tmp_path / "model.safetensors")
    assert isinstance(descriptor, ImageModelDescriptor)
    assert descriptor.architecture.id == "DPMambaIR"
    assert (descriptor.purpose, descriptor.scale) == ("Restoration", 1)
    assert (descriptor.input_channels, descriptor.output_channels) == (3, 3)
    assert descriptor.tiling is ModelTiling.DISCOURAGED
    found = descriptor.model.config
    assert {name: getattr(found, name) for name in SEEN} == {name: getattr(model.config, name) for name in SEEN}
    ours, theirs = model.config.extractor_config, found.extractor_config
    assert [getattr(theirs, name) for name in SEEN_OF_EXTRACTOR] == [getattr(ours, name) for name in SEEN_OF_EXTRACTOR]
    check_restores_like(descriptor, model)


def test_given_configuration_says_what_weights_do_not_show():
    model = small_model(discretization="zoh", layer_norm_eps=1e-2)
    registry = ArchRegistry()
    registry.add(ArchSupport.from_architecture(DPMambaIRArch(model.config)))
    check_restores_like(ModelLoader(registry=registry).load_from_state_dict(model.state_dict()), model)
    assert read_config(model.state_dict()).discretization == "euler"


def test_half_precision_is_refused(loader):
    descriptor = loader.load_from_state_dict(small_model().state_dict())
    with pytest.raises(spandrel.UnsupportedDtypeError):
        descriptor.half()


def test_model_that_needs_more_than_a_picture_is_not_detected(loader):
    with pytest.raises(UnsupportedModelError):
        loader.load_from_state_dict(small_model(embedding_source="given").state_dict())


def test_registering_twice_changes_nothing(loader):
    before = loader.registry.architectures()
    support.register()
    assert loader.registry.architectures() == before


def test_custom_node_of_the_document_registers_and_offers_no_node(monkeypatch):
    registry = spandrel.MAIN_REGISTRY.copy()
    monkeypatch.setattr(support, "MAIN_REGISTRY", registry)
    node = {}
    exec(code_blocks("docs/export.md", "python")[2], node)
    assert "DPMambaIR" in registry
    assert node["NODE_CLASS_MAPPINGS"] == {}


def test_weights_that_do_not_fit_are_an_error(loader):
    weights = DPMambaIRModel(small_config()).state_dict()
    del weights["network.latent.blocks.0.norm1.weight"]
    with pytest.raises(RuntimeError, match=r"network\.latent\.blocks\.0\.norm1\.weight"):
        loader.load_from_state_dict(weights)


@pytest.fixture(scope="module")
def shipped():
    return DPMambaIRModel.from_pretrained(WEIGHTS.parent).eval()


def test_configuration_of_the_shipped_weights_is_read_off_them(shipped):
    found, expected = read_config(shipped.state_dict()), shipped.config
    assert {name: getattr(found, name) for name in SEEN} == {name: getattr(expected, name) for name in SEEN}
    assert found.ffn_ratio == pytest.approx(expected.ffn_ratio)
    assert found.prompt_dim == expected.prompt_dim


@pytest.mark.slow
def test_shipped_weights_restore_like_the_model(loader, shipped):
    check_restores_like(loader.load_from_file(WEIGHTS), shipped, (61, 83))


@pytest.mark.slow
def test_shipped_weights_restore_like_the_model_under_its_configuration(shipped):
    registry = ArchRegistry()
    registry.add(ArchSupport.from_architecture(DPMambaIRArch(shipped.config)))
    check_restores_like(ModelLoader(registry=registry).load_from_file(WEIGHTS), shipped, (61, 83))


@pytest.mark.slow
def test_lines_of_the_document_restore_a_picture(tmp_path):
    degraded, restored = run_python_block("docs/export.md", tmp_path, 1)
    assert restored.size == degraded.size
    assert (np.asarray(restored) != np.asarray(degraded)).mean() > 0.1
