"""Nothing but safetensors is opened, and nothing is built of a configuration out of bounds, at any door."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpmambair.spandrel import DPMambaIRArch
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRImageProcessor, DPMambaIRModel
from modeling_dpmambair.weights_dpmambair import check_weights
from tests.modeling_dpmambair.models import small_model
from tests.reliability.hostile_models import (
    COMMANDS,
    FOREIGN_WEIGHTS,
    GIANT_CONFIGURATIONS,
    MODELS,
    RESTORERS,
    TWISTED_PROCESSORS,
    make_place,
    set_config,
    set_processor,
    spoil,
    unwrap,
)

FOLDER_DOORS = {**MODELS, **RESTORERS, **COMMANDS}
RESTORING_DOORS = RESTORERS


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a small model that loads."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    torch.manual_seed(0)
    small_model(has_description=True).save_pretrained(folder)
    DPMambaIRImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path):
    make_place(tmp_path)
    return tmp_path


@pytest.fixture
def unpickled(monkeypatch):
    """What was handed to torch's unpickler."""
    seen = []
    monkeypatch.setattr(torch, "load", lambda file, *_, **__: seen.append(file))
    return seen


def refusal(door, folder, place):
    """Return what a door says of a folder that it must refuse."""
    with pytest.raises(Exception, match=".") as caught:
        door(folder, place)
    assert not isinstance(caught.value, AssertionError), caught.value.__cause__
    return unwrap(str(caught.value))


def test_a_sound_model_passes_every_door_that_only_loads(sound, place):
    for name in ("restorer", "extractor", "extractor that describes"):
        MODELS[name](sound, place)
    for name in ("Restorer", "page"):
        RESTORERS[name](sound, place)
    COMMANDS["training"](sound, place)


@pytest.mark.parametrize(("name", "spoiling", "text"), FOREIGN_WEIGHTS, ids=lambda given: str(given)[:40])
def test_weights_that_are_no_safetensors_are_refused_at_every_door(sound, place, unpickled, name, spoiling, text):
    folder = spoil(place / "model", sound, spoiling)
    for door in FOLDER_DOORS.values():
        assert unwrap(text) in refusal(door, folder, place)
    assert unpickled == []


@pytest.mark.parametrize(("field", "value", "text"), GIANT_CONFIGURATIONS, ids=lambda given: str(given)[:40])
def test_configurations_out_of_bounds_are_refused_whole_at_every_door(sound, place, field, value, text):
    folder = spoil(place / "model", sound, partial(set_config, **{field: value}))
    for door in (MODELS["restorer"], *RESTORERS.values(), *COMMANDS.values()):
        assert unwrap(text) in refusal(door, folder, place)


@pytest.mark.parametrize(("field", "value", "text"), TWISTED_PROCESSORS, ids=lambda given: str(given)[:40])
def test_processors_that_change_size_or_range_are_refused_at_every_door(sound, place, field, value, text):
    folder = spoil(place / "model", sound, partial(set_processor, **{field: value}))
    for door in RESTORERS.values():
        assert unwrap(text) in refusal(door, folder, place)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"\xff\xfe\0", b'{"dim": "many"}', b"null", b'{"extractor_config": 5}']
)
def test_configurations_that_are_none_are_refused_in_one_line(sound, place, content):
    folder = spoil(place / "model", sound, lambda folder: (folder / "config.json").write_bytes(content))
    for door in (*RESTORERS.values(), *COMMANDS.values()):
        assert refusal(door, folder, place)


@pytest.mark.parametrize("length", [0, 7, 100, 5000])
def test_weights_that_end_early_are_refused_in_one_line(sound, place, length):
    def cut(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:length])

    folder = spoil(place / "model", sound, cut)
    for door in (*RESTORERS.values(), *COMMANDS.values()):
        assert refusal(door, folder, place)


def test_weights_that_are_not_complete_are_exported_and_averaged_by_nobody(sound, place):
    def thin(folder):
        weights = load_file(folder / "model.safetensors")
        weights.pop("network.conv_in.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    folder = spoil(place / "model", sound, thin)
    for name in ("export", "averaging"):
        assert "weights must be complete, got 1 missing; save the model again" in refusal(
            COMMANDS[name], folder, place
        )


def test_a_pickle_given_by_its_own_name_is_refused(sound, place, unpickled):
    torch.serialization.save({}, place / "weights.bin")
    config = DPMambaIRConfig.from_pretrained(sound)
    with pytest.raises(ValueError, match=r"`model` must be a safetensors file, got '.*weights.bin'; save the model"):
        DPMambaIRModel.from_pretrained(place / "weights.bin", config=config)
    assert unpickled == []


@pytest.mark.parametrize(
    ("name", "value", "rule"), [("use_safetensors", False, "True"), ("gguf_file", "a", "left out")]
)
def test_other_formats_cannot_be_asked_for(sound, name, value, rule):
    with pytest.raises(ValueError, match=f"`{name}` must be {rule}, got {value!r}; save the model as safetensors"):
        DPMambaIRModel.from_pretrained(sound, **{name: value})


def test_a_pickle_beside_safetensors_is_ignored(sound, place, unpickled):
    folder = spoil(place / "model", sound, lambda folder: torch.serialization.save({}, folder / "pytorch_model.bin"))
    DPMambaIRModel.from_pretrained(folder)
    assert unpickled == []


def test_shards_beside_their_index_load(sound, place):
    DPMambaIRModel.from_pretrained(sound).save_pretrained(place / "shards", max_shard_size="20KB")
    assert len(list((place / "shards").glob("*.safetensors"))) > 1
    loaded, report = DPMambaIRModel.from_pretrained(place / "shards", output_loading_info=True)
    assert not report["missing_keys"]
    first = load_file(sound / "model.safetensors")
    assert all(torch.equal(first[name], value) for name, value in loaded.state_dict().items())


def test_the_index_of_a_repository_is_checked_before_its_shards_are_fetched(sound, place, monkeypatch):
    index = place / "model.safetensors.index.json"
    index.write_text('{"metadata": {}, "weight_map": {"a": "evil.bin"}}')
    asked = []

    def stand_in(source, name, **options):
        asked.append((source, name, options["revision"]))
        return str(index) if name == index.name else None

    monkeypatch.setattr("modeling_dpmambair.weights_dpmambair.cached_file", stand_in)
    with pytest.raises(ValueError, match="got 'evil.bin'"):
        check_weights("owner/name", {"revision": "a1b2"})
    assert asked[-1] == ("owner/name", index.name, "a1b2")


def test_spandrel_builds_nothing_out_of_bounds(sound):
    weights = load_file(sound / "model.safetensors")
    giant = torch.empty(1, device="meta").expand(10**6, 10**5)  # shapes alone, as a file of a few bytes declares them
    weights["network.latent.blocks.0.mixer.scan.A_log"] = giant
    with pytest.raises(Exception, match=re.escape("`d_state` must be at most 256, got 100000; choose a smaller one")):
        DPMambaIRArch().load(weights)


def test_every_bound_is_far_above_what_ships():
    root = Path(__file__).resolve().parents[2]
    for path in (root / "configuration" / "model").glob("*.json"):
        config = DPMambaIRConfig.from_json_file(path)
        assert config.estimate_weights() < 1e8
        with torch.device("meta"):
            counted = sum(weight.numel() for weight in DPMambaIRModel(config).network.parameters())
        assert counted / 2 < config.estimate_weights() < 4 * counted
