"""What takes part in a run: the model, networks of others, and classical restorations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dpmambair.files import hash_files
from evaluation.classical import CLASSICAL, classical_for
from evaluation.pair_sets import PairSet
from evaluation.peers import Peer, load_peer
from modeling_dpmambair import Restorer, read_picture
from restoration_metrics.scores import DEGRADED

Restore = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Methods:
    """All that restores in a run.

    Attributes:
        model: what the results file says of the model: `name`, `parameters`, `dtype`, `weights_sha256`.
        restorers: by the name of a set its model, one for all or one each.
        peers: networks of others, by name.
        peer_weights: checksums of theirs.
        has_classical: whether the classical restorations take part.
    """

    model: dict[str, Any]
    restorers: Mapping[str, Restorer]
    peers: Mapping[str, Peer]
    peer_weights: Mapping[str, str]
    has_classical: bool

    def list_for(self, pair_set: PairSet) -> dict[str, Restore]:
        """Return the methods of a set by name, functions from a degraded to a restored picture.

        Args:
            pair_set: the set; its task decides about the classical ones.

        Raises:
            ValueError: the model reads class labels, and the task has none.
        """
        baselines = classical_for(pair_set.task) if self.has_classical else ()
        return {
            self.model["name"]: tell_class(self.restorers[pair_set.name], pair_set.task),
            **self.peers,
            **{each.name: each for each in baselines},
        }

    def describe(self, sets: Iterable[PairSet]) -> dict[str, str]:
        """Say what each method but the model is.

        Args:
            sets: those that are measured.
        """
        tasks = {each.task for each in sets} if self.has_classical else set()
        peers = {name: f"weights {checksum[:12]}" for name, checksum in self.peer_weights.items()}
        return peers | {each.name: each.settings for each in CLASSICAL if tasks & set(each.tasks)}


def tell_class(restorer: Restorer, task: str) -> Restore:
    """Tell a model that reads class labels (Table 4) what a set suffers; any other model looks for itself.

    Args:
        restorer: the model.
        task: of the set.

    Raises:
        ValueError: the model has no label for the task.
    """
    config = restorer.model.config
    if config.embedding_source != "class_label":
        return restorer
    known = config.extractor_config.degradations
    if task not in known:
        raise ValueError(
            f"`task` must be one of {', '.join(known)} for a model of class labels, got {task!r}; leave the set out"
        )
    embedding = restorer.model.class_embedding.weight[[known.index(task)]].detach()
    return lambda picture: restorer.restore_picture(read_picture(picture), degradation_embedding=embedding).image


def load_restorers(model: Path, sets: Sequence[PairSet], device: torch.device, dtype: str) -> dict[str, Restorer]:
    """Load the model, or one for each set.

    Args:
        model: folder of a trained model, or a folder that holds one for each set under the set's name.
        sets: what is measured.
        device: where it runs.
        dtype: number format of the computation.

    Returns:
        By the name of a set, what restores it.

    Raises:
        ValueError: a folder does not load.
    """
    folders = {pair_set.name: find_model(model, pair_set) for pair_set in sets}
    loaded = {folder: Restorer.from_pretrained(folder, device, dtype) for folder in set(folders.values())}
    return {name: loaded[folder] for name, folder in folders.items()}


def find_model(model: Path, pair_set: PairSet) -> Path:
    """Return the folder of the model for a set: the one of its name below `model` if there is one, else `model`."""
    own = model / pair_set.name
    return own if (own / "config.json").is_file() else model


def load_peers(paths: Sequence[Path], model: Path, device: torch.device) -> dict[str, Peer]:
    """Load networks of others, named like their files.

    Args:
        paths: files of weights that spandrel knows.
        model: folder of the model, whose name is taken.
        device: where they run.

    Raises:
        ImportError: spandrel is missing.
        OSError: a file cannot be read.
        ValueError: a file holds no such network, or two methods have one name.
    """
    names = [DEGRADED, *(each.name for each in CLASSICAL), model.resolve().name, *(path.stem for path in paths)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"methods must have names of their own, got {', '.join(twice)} twice; rename the model's folder or a file"
        )
    return {path.stem: load_peer(path, device) for path in paths}


def describe_model(
    model: Path, sets: Iterable[PairSet], restorers: Mapping[str, Restorer], dtype: str
) -> dict[str, Any]:
    """Say which weights are measured: folder's name, parameter count, number format and checksum.

    Args:
        model: folder of the model, or of one for each set.
        sets: what is measured.
        restorers: what was loaded, by set.
        dtype: number format of the computation; the weights stay float32.

    Returns:
        Entries for the results file.
    """
    first = next(iter(restorers.values())).model
    folders = dict.fromkeys(find_model(model, pair_set) for pair_set in sets)
    return {
        "name": model.resolve().name,
        "parameters": sum(parameter.numel() for parameter in first.parameters()),
        "dtype": dtype,
        "weights_sha256": hash_files(path for folder in folders for path in sorted(folder.glob("*.safetensors"))),
    }
