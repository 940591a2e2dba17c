"""Nothing but safetensors is opened, and nothing is built of a configuration out of bounds, at any door."""

import math
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpmambair.spandrel import DPMambaIRArch
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRImageProcessor, DPMambaIRModel, Restorer
from modeling_dpmambair.weights_dpmambair import check_weights
from tests.modeling_dpmambair.models import small_model
from tests.reliability.hostile_models import (
    COMMANDS,
    FOREIGN_FIELDS,
    FOREIGN_WEIGHTS,
    GIANT_CONFIGURATIONS,
    MODELS,
    RESTORERS,
    TWISTED_PROCESSORS,
    find_refusal,
    make_place,
    set_config,
    set_processor,
    spoil,
    unwrap,
)
from tests.restoring import files_below

FOLDER_DOORS = {**MODELS, **RESTORERS, **COMMANDS}
# Others of a kind that the fast tests show by one or two.
rare = [pytest.mark.ci, pytest.mark.slow]
NO_CONFIGURATIONS = [b"", b"{", b"[" * 100_000, b"\xff\xfe\0", b"null", b'{"dim": "many"}', b'{"extractor_config": 5}']


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


@pytest.fixture
def refuse(place, record):
    """Hand a folder in at doors, each of which must refuse it with a text, and count it."""

    def hand_in(kind, doors, folder, text=""):
        for name, door in doors.items():
            said, is_refused = find_refusal(door, folder, place)
            record(kind, name, 1, [] if is_refused and unwrap(text) in said else [f"said {said}"])

    return hand_in


def test_a_sound_model_passes_every_door_that_only_loads(sound, place):
    for name in ("restorer", "extractor", "extractor that describes"):
        MODELS[name](sound, place)
    for name in ("Restorer", "page"):
        RESTORERS[name](sound, place)
    COMMANDS["training"](sound, place)


@pytest.mark.parametrize(
    ("spoiling", "text"), [each[1:] for each in FOREIGN_WEIGHTS], ids=[name for name, *_ in FOREIGN_WEIGHTS]
)
def test_weights_that_are_no_safetensors_are_refused_at_every_door(sound, place, unpickled, refuse, spoiling, text):
    refuse("weights in other formats", FOLDER_DOORS, spoil(place / "model", sound, spoiling), text)
    assert unpickled == []


@pytest.mark.parametrize(
    ("field", "value", "text"), [*GIANT_CONFIGURATIONS, *FOREIGN_FIELDS], ids=lambda given: str(given)[:40]
)
def test_configurations_out_of_bounds_are_refused_whole_at_every_door(sound, place, refuse, field, value, text):
    folder = spoil(place / "model", sound, partial(set_config, **{field: value}))
    refuse("configurations out of bounds", {"restorer": MODELS["restorer"], **RESTORERS, **COMMANDS}, folder, text)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [pytest.param(*each, marks=() if each[0] == "do_resize" else rare) for each in TWISTED_PROCESSORS],
    ids=lambda given: str(given)[:40],
)
def test_processors_that_change_size_or_range_are_refused_at_every_door(sound, place, refuse, field, value, text):
    folder = spoil(place / "model", sound, partial(set_processor, **{field: value}))
    refuse("preprocessors that change pictures", RESTORERS, folder, text)


@pytest.mark.parametrize("content", NO_CONFIGURATIONS)
def test_configurations_that_are_none_are_refused(sound, place, refuse, content):
    folder = spoil(place / "model", sound, lambda folder: (folder / "config.json").write_bytes(content))
    refuse("broken files", RESTORERS | COMMANDS, folder)


@pytest.mark.parametrize("content", [
    b"{", b'{"do_rescale": "no"}',
    *(pytest.param(each, marks=rare) for each in NO_CONFIGURATIONS[:5] if each != b"{"),
    pytest.param(b"5", marks=rare), pytest.param(b'{"rescale_factor": []}', marks=rare),
])  # fmt: skip
def test_preprocessors_that_are_none_are_refused(sound, place, refuse, content):
    folder = spoil(place / "model", sound, lambda folder: (folder / "preprocessor_config.json").write_bytes(content))
    refuse("broken files", RESTORERS, folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_pipes_in_place_of_configurations_are_refused(sound, place, refuse, name):
    folder = spoil(place / "model", sound, lambda folder: [(folder / name).unlink(), os.mkfifo(folder / name)])
    refuse("broken files", RESTORERS, folder)


@pytest.mark.parametrize("length", [0, pytest.param(7, marks=rare), pytest.param(100, marks=rare), 5000])
def test_weights_that_end_early_are_refused(sound, place, refuse, length):
    def cut(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:length])

    refuse("broken files", RESTORERS | COMMANDS, spoil(place / "model", sound, cut))


def poison(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["network.conv_out.weight"].fill_(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_weights_that_are_not_finite_restore_nothing(sound, place, refuse, value):
    folder = spoil(place / "model", sound, partial(poison, value=value))

    def restore(folder, place):
        Restorer.from_pretrained(folder, "cpu")(place / "in" / "a.png")

    doors = {"Restorer": restore} | {name: RESTORERS[name] for name in ("command line", "evaluation")}
    refuse("weights that are not finite", doors, folder)
    assert not [name for name in files_below(place / "out") if name.endswith(".png")]


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_exported(place, refuse):
    small_model(first_mixer_level=3, has_heb=False).save_pretrained(place / "model")
    poison(place / "model", math.nan)
    refuse("weights that are not finite", {"export": COMMANDS["export"]}, place / "model")
    assert not (place / "out.onnx").exists()


def test_weights_that_are_not_complete_are_exported_and_averaged_by_nobody(sound, place, refuse):
    def thin(folder):
        weights = load_file(folder / "model.safetensors")
        weights.pop("network.conv_in.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    folder, doors = spoil(place / "model", sound, thin), {name: COMMANDS[name] for name in ("export", "averaging")}
    refuse("broken files", doors, folder, "weights must be complete, got 1 missing; save the model again")


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


# Shapes alone, as a file of a few bytes declares them, and what the adapter says.
GIANT_SHAPES = [
    ("network.latent.blocks.0.mixer.scan.A_log", (10**6, 10**5), "`d_state` must be at most 256, got 100000; choose"),
    ("network.latent.blocks.0.mixer.scan.A_log", (10**9, 4), "`expand` must be at most 31, got "),
    ("network.latent.blocks.0.norm2.weight", (10**9,), "`expand` must be at least 1, got 0; choose a larger"),
    ("network.latent.blocks.0.mixer.scan.conv.weight", (8, 1, 9999, 9999), "`d_conv` must be at most 31, got 9999;"),
    ("network.latent.blocks.0.ffn.out_proj.weight", (1, 10**9), "`ffn_ratio` must be at most 31, got 1000000000.0"),
    ("network.latent.blocks.500.norm2.weight", (8,), "`latent_depth` must be at most 100, got 501; choose a smaller"),
    ("network.conv_in.weight", (10**9, 3, 3, 3), "`stem_dim` must be at most 4096, got 1000000000; choose a smaller"),
    ("extractor.stages.0.mix.weight", (10**9, 4, 1, 1), "`channels` must be at most 4096, got [1000000000, "),
    ("description_head.hidden.weight", (10**9, 8), "`description_dim` must be at most 16384, got 1000000000; choose"),
    ("description_head.out_proj.weight", (20_000, 6), "`degradations` must be at most 1000 names, got 10000; name"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "text"), GIANT_SHAPES, ids=lambda given: str(given)[:60])
def test_spandrel_builds_nothing_out_of_bounds(sound, record, name, shape, text):
    weights = load_file(sound / "model.safetensors")
    weights[name] = torch.empty(1, device="meta").expand(shape)
    said, is_refused = find_refusal(lambda *_: DPMambaIRArch().load(weights), sound, sound)
    is_told = is_refused and text in said
    record("configurations out of bounds", "spandrel adapter", 1, [] if is_told else [f"said {said}"])


def test_every_bound_is_far_above_what_ships():
    root = Path(__file__).resolve().parents[2]
    for path in (root / "configuration" / "model").glob("*.json"):
        config = DPMambaIRConfig.from_json_file(path)
        assert config.estimate_weights() < 1e8
        with torch.device("meta"):
            counted = sum(weight.numel() for weight in DPMambaIRModel(config).network.parameters())
        assert counted / 2 < config.estimate_weights() < 4 * counted
