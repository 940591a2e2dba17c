"""Where weights may come from: safetensors files that lie in the model's own folder, and nothing else.

Whatever else transformers would open by itself (`.bin` files, which are pickles, also as shards that an index of
safetensors names, GGUF files, adapters) is refused before it is looked at.
"""

import json
import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file, is_peft_available

INDEX = "model.safetensors.index{}.json"
WEIGHTS = "model{}.safetensors"
ADAPTER = "adapter_config.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
REMEDY = "save the model as safetensors where it comes from"
# Of what `from_pretrained` takes, what says where and how files are looked up.
PLACES = ("cache_dir", "proxies", "local_files_only", "token", "revision", "subfolder")


def check_weights(source: str | os.PathLike | None, options: dict[str, Any]) -> None:
    """Make sure that loading from somewhere opens no weights but safetensors.

    Args:
        source: folder, file or repository of the Hub, as `from_pretrained` takes it.
        options: its other arguments, by name.

    Raises:
        ValueError: they ask for another format, or the source holds one alone, or an index that leads elsewhere.
    """
    _check(options.get("use_safetensors") in (None, True), "use_safetensors", "True", options.get("use_safetensors"))
    _check(options.get("gguf_file") is None, "gguf_file", "left out", options.get("gguf_file"))
    if source is None:
        return
    if os.path.isfile(source):
        _check(str(source).endswith(".safetensors"), "model", "a safetensors file", os.fspath(source))
        return
    variant = f".{options['variant']}" if options.get("variant") else ""
    if os.path.isdir(source):
        _check_folder(Path(source, options.get("subfolder") or ""), variant)
    elif is_peft_available():
        _check(_find(source, ADAPTER, options) is None, "model", "one without an adapter", ADAPTER)
    if (index := _find(source, INDEX.format(variant), options)) is not None:
        check_index(Path(index))


def check_index(path: Path) -> None:
    """Make sure that an index of shards names safetensors files beside it.

    Args:
        path: of the index.

    Raises:
        ValueError: it names another file, or is no index.
    """
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        shards = sorted({name for name in named if isinstance(name, str)})
        is_index = bool(named) and all(isinstance(name, str) for name in named)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_index, shards = False, []
    _check(is_index, "model", "named by an index with a weight_map", path.name)
    for shard in shards:
        is_beside = shard == os.path.basename(shard) and shard.endswith(".safetensors")
        _check(is_beside, "model", f"in safetensors files beside {path.name}", shard)


def _check_folder(folder: Path, variant: str) -> None:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    _check(ADAPTER not in names, "model", "one without an adapter", ADAPTER)
    has_weights = WEIGHTS.format(variant) in names or INDEX.format(variant) in names
    pickles = [name for name in names if name.endswith(PICKLES)]
    _check(has_weights or not pickles, "model", "a folder with model.safetensors", pickles[0] if pickles else "")


def _find(source: str | os.PathLike, name: str, options: dict[str, Any]) -> str | None:
    """Return where a file of a folder or repository is, fetched if need be, or None where there is none."""
    places = {place: options[place] for place in PLACES if options.get(place) is not None}
    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(source, name, _raise_exceptions_for_gated_repo=False, **places, **quietly)


def _check(is_kept: bool, name: str, rule: str, value: Any) -> None:
    if not is_kept:
        raise ValueError(f"`{name}` must be {rule}, got {value!r}; {REMEDY}")


__all__ = ["check_index", "check_weights"]
