"""Folders of models that nobody sends in good faith, and the doors at which they are handed in."""

import json
import os
import re
import shutil
import traceback
from pathlib import Path
from unittest import mock

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import pipeline
from typer.testing import CliRunner

import evaluate_accelerate
import export_model
import publish_hub
from demo.restoration_page.restorer import Restorer as PageRestorer
from dpmambair import restore, serve
from modeling_dpmambair import (
    TASK,
    DegradationExtractorForDescription,
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRModel,
    Restorer,
)
from tests.restoring import ROOT, save
from training import average, stages
from training.recipe import ModelRecipe

OURS = ROOT / "modeling_dpmambair"


def _pickled(folder, name="pytorch_model.bin"):
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()


def _index(folder, shard, name="model.safetensors.index.json"):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    outside = Path(shard) if Path(shard).is_absolute() else folder / shard
    torch.save(weights, outside) if outside.suffix == ".bin" else save_file(weights, outside, {"format": "pt"})
    content = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, shard)}
    (folder / name).write_text(json.dumps(content))


def set_config(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for name, value in changes.items():
        if name in content["extractor_config"] and name not in content:
            content["extractor_config"][name] = value
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def set_processor(folder, **changes):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Each: a name, what spoils the folder, and what the error says.
FOREIGN_WEIGHTS = [
    ("pickle", _pickled, "`model` must be a folder with model.safetensors, got 'pytorch_model.bin'; save the model"),
    ("old pickle", lambda folder: _pickled(folder, "model.pth"), "model.safetensors, got 'model.pth'"),
    ("pickled index", lambda folder: _index(folder, "pytorch_model-1.bin", "pytorch_model.bin.index.json"),
     "`model` must be a folder with model.safetensors, got 'pytorch_model-1.bin'"),
    ("index of a pickle", lambda folder: _index(folder, "model-1.bin"),
     "`model` must be in safetensors files beside model.safetensors.index.json, got 'model-1.bin'; save"),
    ("index that leads up", lambda folder: _index(folder, "../stolen.safetensors"), "got '../stolen.safetensors'"),
    ("absolute index", lambda folder: _index(folder, str(folder.parent.resolve() / "stolen.safetensors")),
     "beside model.safetensors.index.json, got '/"),
    ("index that is none", lambda folder: [_index(folder, "a.safetensors"),
     (folder / "model.safetensors.index.json").write_text("[]")], "an index with a weight_map"),
    ("pipe", lambda folder: [(folder / "model.safetensors").unlink(), os.mkfifo(folder / "model.safetensors")], ""),
    ("device", lambda folder: [(folder / "model.safetensors").unlink(),
     (folder / "model.safetensors").symlink_to("/dev/zero")], ""),
    ("adapter", lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}'),
     "`model` must be one without an adapter, got 'adapter_config.json'"),
]  # fmt: skip

# Each: a field, its value, and what the error says.
GIANT_CONFIGURATIONS = [
    ("transformers_weights", "adapter_model.bin", "`transformers_weights` must be left out, got 'adapter_model.bin'"),
    ("encoder_depths", [100_000, 1, 1], "`encoder_depths` must be at most 100, got [100000, 1, 1]; choose a smaller"),
    ("decoder_depths", [1, 1, 100_000], "`decoder_depths` must be at most 100, got [1, 1, 100000]; choose a smaller"),
    ("latent_depth", 10**9, "`latent_depth` must be at most 100, got 1000000000; choose a smaller one"),
    ("refinement_depth", 10**9, "`refinement_depth` must be at most 100, got 1000000000; choose a smaller one"),
    ("dim", 2**40, "`dim` must be at most 4096, got 1099511627776; choose a smaller one"),
    ("stem_dim", 10**7, "`stem_dim` must be at most 4096, got 10000000; choose a smaller one"),
    ("prompt_dim", 10**7, "`prompt_dim` must be at most 4096, got 10000000; choose a smaller one"),
    ("d_state", 10**7, "`d_state` must be at most 256, got 10000000; choose a smaller one"),
    ("d_conv", 10**7 + 1, "`d_conv` must be at most 31, got 10000001; choose a smaller one"),
    ("expand", 10**7, "`expand` must be at most 31, got 10000000; choose a smaller one"),
    ("ffn_ratio", 1e9, "`ffn_ratio` must be at most 31, got 1000000000.0; choose a smaller one"),
    ("dt_max", 1e300, "`dt_max` must be at most 100, got 1e+300; choose a smaller one"),
    ("dim", 4096, "`dim, expand, ffn_ratio and the depths` must be of at most 1e+09 weights, got "),
    ("num_labels", 10**9, "`num_labels` must be at most 1000, got 1000000000; leave it out: nothing reads it"),
    ("channels", [10**9] * 4, "`channels` must be at most 4096, got [1000000000, 1000000000, "),
    ("channels", [4096] * 4, "`channels, kernel_sizes and the widths` must be of at most 1e+09 weights, got "),
    ("window", 10**30, f"`window` must be at most 1024, got {10**30}; choose a smaller one"),
    ("kernel_sizes", [99_999], "`kernel_sizes` must be at most 31, got [99999]; choose a smaller one"),
    ("kernel_sizes", [3] * 100, "`kernel_sizes` must be at most 31 sizes, got [3, 3, "),
    ("embedding_dim", 10**9, "`embedding_dim` must be at most 16384, got 1000000000; choose a smaller one"),
    ("description_dim", 10**9, "`description_dim` must be at most 16384, got 1000000000; choose a smaller one"),
    ("reconstruction_dim", 10**9, "`reconstruction_dim` must be at most 4096, got 1000000000; choose a smaller one"),
    ("degradations", ["\x1b[2J"], r"`degradations` must be printable names of at most 64 characters, got '\x1b[2J';"),
    ("degradations", ["a" * 65], "`degradations` must be printable names of at most 64 characters, got 'aaa"),
    ("degradations", [str(each) for each in range(1001)], "`degradations` must be at most 1000 names, got 1001;"),
]  # fmt: skip

# Of these transformers would fetch and run code, or fail in words of its own.
FOREIGN_FIELDS = [
    ("attn_implementation", "evil/kernel", "`attn_implementation` must be left out, got 'evil/kernel'; there is no"),
    ("_attn_implementation", "evil/kernel", "`_attn_implementation` must be left out, got 'evil/kernel'; there is no"),
    ("experts_implementation", "evil/kernel", "`experts_implementation` must be left out, got 'evil/kernel'; there"),
    ("quantization_config", {"quant_method": "awq"}, "`quantization_config` must be left out, got {'quant_method': "),
    ("fusion_config", {"patch": True}, "`fusion_config` must be left out, got {'patch': True}; nothing of ours"),
    ("per_layer_config", {"0": {}}, "`per_layer_config` must be left out, got {'0': {}}; nothing of ours reads it"),
    ("dtype", "load", "`dtype` must be one of bfloat16, float16, float32, float64, got 'load'; float32 is the usual"),
    ("id2label", 5, "`id2label` must be a dictionary, got 5; leave it out: nothing reads it"),
    ("num_labels", "9", "`num_labels` must be at most 1000, got '9'; leave it out: nothing reads it"),
    ("validate_sizes", None, "`validate_sizes` must be left out, as a method has this name, got None; leave it out"),
]  # fmt: skip

TWISTED_PROCESSORS = [
    ("do_rescale", False, "`do_rescale` must be True, got False; the model takes RGB of any size in [0, 1]"),
    ("rescale_factor", 1.0, "`rescale_factor` must be 0.00392156862745098, got 1.0; the model takes RGB"),
    ("do_resize", True, "`do_resize` must be False, got True; the model takes RGB of any size"),
    ("do_center_crop", True, "`do_center_crop` must be False, got True; the model takes RGB of any size"),
    ("do_pad", True, "`do_pad` must be False, got True; the model takes RGB of any size"),
    ("do_normalize", True, "`do_normalize` must be False, got True; the model takes RGB of any size"),
]

# Doors

# The last two are safetensors' own, and the one in which a configuration's dataclass wraps our `ValueError`.
REFUSALS = (OSError, ValueError, FloatingPointError, SafetensorError, StrictDataclassError)


def _loading(build):
    return lambda folder, place: build.from_pretrained(folder)


def _command(run, *arguments):
    """A door that is a command: what it says on stderr is raised, and a traceback as an `AssertionError`."""

    def hand_in(folder, place):
        given = [str(each).format(place=place, model=folder) for each in arguments]
        result = CliRunner().invoke(run, given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError("a traceback") from result.exception
        if result.exit_code:
            raise ValueError(unwrap(result.stderr))

    return hand_in


def _serve(folder, place):
    # One that begins would not end.
    with mock.patch.object(serve, "run"), mock.patch.object(serve.socket, "create_server"):
        _command(serve.main, "--model", "{model}", "--port", "0", "--device", "cpu")(folder, place)


def _pipe(folder, place):
    """Hand a folder in to transformers, which reads the configuration before ours does, and fails as it likes."""
    try:
        pipeline(TASK, model=str(folder), device="cpu")
    except (AttributeError, RecursionError, TypeError) as error:
        if any(Path(frame.filename).parent == OURS for frame in traceback.extract_tb(error.__traceback__)):
            raise
        raise ValueError(f"transformers: {error}") from error


def unwrap(text):
    """Return a message without the frame and the lines that typer breaks it into."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def _train(stage, **fields):
    def hand_in(folder, place):
        named = {name: str(value).format(model=folder) for name, value in fields.items()}
        stages.build_stage(ModelRecipe(stage=stage, **named))

    return hand_in


def make_place(place):
    """Make what the commands work on."""
    for name in ("in/a.png", "pairs/degraded/a.png", "pairs/clean/a.png"):
        save(place / name)


MODELS = {
    "restorer": _loading(DPMambaIRModel),
    "extractor": _loading(DegradationExtractorModel),
    "extractor that describes": _loading(DegradationExtractorForDescription),
    "extractor that pre-trains": _loading(DegradationExtractorForPreTraining),
}
RESTORERS = {
    "Restorer": lambda folder, place: Restorer.from_pretrained(folder, "cpu"),
    "command line": _command(restore.main, "{place}/in", "-o", "{place}/out", "--model", "{model}", "--device", "cpu"),
    "evaluation": _command(
        evaluate_accelerate.app, "--pairs", "{place}/pairs", "--model", "{model}", "--output", "{place}/out.json"
    ),
    "pipeline": _pipe,
    "service": _serve,
    "publishing": lambda folder, place: publish_hub.stage_model(publish_hub.Bundle(place / "bundle"), folder),
    "page": lambda folder, place: PageRestorer.from_source(str(folder)),
}
COMMANDS = {
    "export": _command(export_model.main, "{model}", "-o", "{place}/out.onnx"),
    "averaging": _command(average.app, "{model}", "-o", "{place}/mean"),
    "training": _train("restorer", init_from="{model}"),
    "training of the head": _train("describe", extractor="{model}"),
}


def find_refusal(door, folder, place):
    """Hand a folder in; return what is said of it, and whether that is a refusal of one line's worth.

    Any other error than these says that a check is missing, whatever its text.
    """
    try:
        door(folder, place)
    except AssertionError as error:
        return repr(error.__cause__), False
    except REFUSALS as error:
        said = unwrap(str(error))
        return said, bool(said)
    except Exception as error:
        return repr(error), False
    return "nothing", False


def spoil(folder, sound, spoiling):
    """Make a folder of a sound model's, and spoil it."""
    shutil.copytree(sound, folder)
    spoiling(folder)
    return folder
