"""Networks of others: spandrel finds and runs them, and nothing in a file is run."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet
from spandrel.architectures.NAFNet.__arch.NAFNet_arch import NAFNet
from spandrel_extra_arches.architectures.Restormer.__arch.restormer_arch import Restormer

from evaluation.peers import load_peer

CPU = torch.device("cpu")
PICTURE = Image.fromarray(data.astronaut()[:33, :41])


def nafnet():
    torch.manual_seed(0)
    return NAFNet(img_channel=3, width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]).eval()


def restore(network):
    """Restore without spandrel: pad to a multiple of four, run, cut, round."""
    pixels = torch.from_numpy(np.array(PICTURE)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        restored = network(pixels).clamp(0, 1)
    return restored[0].permute(1, 2, 0).mul(255).round().byte().numpy()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "wrapped.pth"])
def test_network_is_recognised_and_restores_as_it_does_by_itself(tmp_path, name):
    network, path = nafnet(), tmp_path / name
    weights = network.state_dict()
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(
        {"params": weights} if name == "wrapped.pth" else weights, path
    )
    found = np.asarray(load_peer(path, CPU)(PICTURE))
    assert np.abs(found.astype(int) - restore(network)).max() <= 1


def test_networks_of_the_further_package_are_recognised(tmp_path):
    network = Restormer(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, heads=[1, 1, 1, 1])
    save_file(network.state_dict(), tmp_path / "restormer.safetensors")
    assert load_peer(tmp_path / "restormer.safetensors", CPU)(PICTURE).size == PICTURE.size


class Attack:
    """What unpickling would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path, save):
    save({"params": Attack(tmp_path / "ran")}, tmp_path / "model.pth")
    rule = r"`path` must hold tensors alone, got .*model.pth \(\w+\); convert it to safetensors"
    with pytest.raises(ValueError, match=rule):
        load_peer(tmp_path / "model.pth", CPU)
    assert not (tmp_path / "ran").exists()


def test_torchscript_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="`path` must end in .safetensors or .pth, got .*model.pt; convert it"):
        load_peer(tmp_path / "model.pt", CPU)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_and_missing_files_are_refused(tmp_path, suffix):
    with pytest.raises(OSError, match="model"):
        load_peer(tmp_path / f"model{suffix}", CPU)
    (tmp_path / f"model{suffix}").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="`path` must hold tensors alone"):
        load_peer(tmp_path / f"model{suffix}", CPU)


def test_file_without_names_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "model.pth")
    with pytest.raises(ValueError, match="`path` must hold weights by name, got list in .*; give a state dict"):
        load_peer(tmp_path / "model.pth", CPU)


def test_unknown_network_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    rule = "`path` must hold a network that spandrel knows, got .*: unknown names; its documentation lists them"
    with pytest.raises(ValueError, match=rule):
        load_peer(tmp_path / "model.safetensors", CPU)


def test_network_that_enlarges_is_refused(tmp_path):
    network = RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4)
    save_file(network.state_dict(), tmp_path / "esrgan.safetensors")
    rule = r"from RGB to RGB of one size, got ESRGAN with scale, inputs and outputs \(4, 3, 3\).*; give a restorer"
    with pytest.raises(ValueError, match=rule):
        load_peer(tmp_path / "esrgan.safetensors", CPU)


def test_missing_package_is_an_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(
        ImportError, match="`spandrel` must be installed for peers, got none; run pip install spandrel"
    ):
        load_peer(tmp_path / "model.safetensors", CPU)
