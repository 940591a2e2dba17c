import os
import sys
from functools import cache

import lpips
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from restoration_metrics import load_lpips, lpips_distance

TORCHVISION_NAMES = {"squeeze": "squeezenet1_1", "alex": "alexnet"}


@cache
def build_features(network):
    """A backbone with random weights: it shows that everything is connected, and scores nothing."""
    torch.manual_seed(0)
    return get_model(TORCHVISION_NAMES[network]).features


@pytest.fixture(scope="module")
def save_backbone(tmp_path_factory):
    """Save a network's random backbone, and return the file."""
    folder = tmp_path_factory.mktemp("backbones")

    @cache
    def save(network):
        features = {f"features.{key}": value for key, value in build_features(network).state_dict().items()}
        save_file(features, folder / f"{network}.safetensors")
        return folder / f"{network}.safetensors"

    return save


@pytest.fixture
def backbone(save_backbone):
    return save_backbone("squeeze")


@pytest.fixture
def perceptual(backbone):
    return load_lpips("squeeze", backbone)


def draw_pair(size=40):
    generator = torch.Generator().manual_seed(42)
    return torch.rand(2, 3, size, size, generator=generator), torch.rand(2, 3, size, size, generator=generator)


def test_true_distances_of_the_example_that_torchmetrics_documents():
    backbone = os.environ.get("DPMAMBAIR_LPIPS_BACKBONE")
    if backbone is None:
        pytest.skip("set DPMAMBAIR_LPIPS_BACKBONE to a safetensors file with squeezenet1_1's features")
    distances = lpips_distance(*draw_pair(100), load_lpips("squeeze", backbone))
    assert distances.tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)


@pytest.mark.parametrize("network", TORCHVISION_NAMES)
@pytest.mark.filterwarnings("ignore:.*pretrained.*:UserWarning", "ignore:.*weight enum.*:UserWarning")
def test_backbone_from_the_file_ends_in_the_right_layers(network, save_backbone):
    reference = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    for index in range(reference.net.N_slices):
        for position, layer in getattr(reference.net, f"slice{index + 1}").named_children():
            layer.load_state_dict(build_features(network)[int(position)].state_dict())
    restored, clean = draw_pair()
    expected = reference(2 * restored - 1, 2 * clean - 1).flatten()
    torch.testing.assert_close(lpips_distance(restored, clean, load_lpips(network, save_backbone(network))), expected)


def test_module_returns_the_mean_distance(perceptual):
    restored, clean = draw_pair()
    torch.testing.assert_close(perceptual(restored, clean), lpips_distance(restored, clean, perceptual).mean())


def test_identical_images_have_no_distance(perceptual):
    clean, _ = draw_pair()
    assert lpips_distance(clean, clean, perceptual).tolist() == [0, 0]


def test_module_stays_frozen_and_in_evaluation_mode_inside_a_training_model(perceptual):
    model = torch.nn.ModuleList([perceptual]).train()
    assert not any(module.training for module in model[0].modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_gradients_reach_both_images(perceptual):
    restored, clean = (image.requires_grad_() for image in draw_pair())
    perceptual(restored, clean).backward()
    assert restored.grad.abs().sum() > 0
    assert clean.grad.abs().sum() > 0


def test_autocast_does_not_change_the_distance(perceptual):
    restored, clean = draw_pair()
    expected = perceptual(restored, clean)
    with torch.autocast("cpu", torch.bfloat16):
        assert perceptual(restored, clean).equal(expected)
        assert perceptual(restored.bfloat16(), clean.bfloat16()).dtype == torch.float32


def test_loading_leaves_the_random_numbers_alone(backbone):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_lpips("squeeze", backbone)
    assert torch.rand(4).equal(expected)


def test_backbone_in_the_hub_cache_is_found(monkeypatch, tmp_path, backbone):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    weights = get_model("squeezenet1_1").state_dict()
    torch.save(weights, tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    layer = load_lpips("squeeze").network.net.slice1[0]
    assert layer.weight.equal(weights["features.0.weight"])


def test_missing_backbone_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = (
        r"(?s)`backbone` must be given while torch's hub cache lacks alexnet, got None .*alexnet-.*\.pth.*python -c"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_lpips("alex")


def test_backbone_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="`backbone` must be an existing safetensors file, got .*squeezenet1_1"
    ):
        load_lpips("squeeze", tmp_path / "nothing.safetensors")


def test_backbone_in_another_format_is_refused(tmp_path):
    (tmp_path / "backbone.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match=r"`backbone` must be a safetensors file, got .*save the features with"):
        load_lpips("squeeze", tmp_path / "backbone.safetensors")


def test_backbone_of_another_network_is_refused(backbone):
    message = (
        r"`backbone` must hold torchvision's alexnet, got \(64, 3, 3, 3\) for `features.0.weight`.*fits `network`"
    )
    with pytest.raises(ValueError, match=message):
        load_lpips("alex", backbone)


def test_unknown_network_is_refused():
    with pytest.raises(ValueError, match="`network` must be one of squeeze, alex, vgg, got 'resnet'; choose"):
        load_lpips("resnet")


def test_missing_package_is_an_error_with_the_command(monkeypatch, backbone):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match="pip install lpips"):
        load_lpips("squeeze", backbone)


def test_small_images_are_refused(perceptual):
    with pytest.raises(ValueError, match="`restored` must be at least 32 x 32 pixels, got 16 x 16; measure larger"):
        perceptual(*draw_pair(16))
