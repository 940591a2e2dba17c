"""Writing a dataset so that plain `datasets.load_dataset` reads it anywhere, without this package."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets.table import embed_table_storage

PAIRS_PER_FILE = 200
# Suffixes of pictures that come as bytes; all encoders of this project write PNG.
ENCODED_SUFFIX = ".png"


def write_parquet(dataset: datasets.Dataset, folder: Path, split: str) -> None:
    """Write Parquet files that hold the pictures' own files, for `load_dataset(folder)`.

    Args:
        dataset: with any columns.
        folder: to make.
        split: name of the split.

    Raises:
        ValueError: the folder exists.
    """
    count = -(-len(dataset) // PAIRS_PER_FILE)
    with _new_folder(folder) as unfinished:
        (unfinished / "data").mkdir()
        for number in range(count):
            shard = dataset.shard(count, number, contiguous=True).with_format("arrow")
            embedded = shard.map(embed_table_storage, batched=True, keep_in_memory=True)
            embedded.to_parquet(unfinished / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet")


def write_imagefolder(dataset: datasets.Dataset, folder: Path, split: str) -> None:
    """Write the pictures as files beside a `metadata.jsonl`, for `load_dataset("imagefolder", data_dir=folder)`.

    Files are copied as they are. Each column that has pictures becomes a folder; a clean corpus has no degraded ones.
    Other columns stand in the metadata, and `file_name` is called `source_name` there, because the reader would look
    for it.

    Args:
        dataset: with any columns.
        folder: to make.
        split: name of the split.

    Raises:
        ValueError: the folder exists.
    """
    pictures = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    for name in pictures:
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    empty = [name for name in pictures if all(row[name] is None for row in dataset.select_columns(name))]
    dataset, pictures = dataset.remove_columns(empty), [name for name in pictures if name not in empty]
    with _new_folder(folder) as unfinished:
        root = unfinished / split
        for name in pictures:
            (root / name).mkdir(parents=True)
        with open(root / "metadata.jsonl", "w", encoding="utf-8") as metadata:
            for number, row in enumerate(dataset):
                entry = {name: value for name, value in row.items() if name not in pictures}
                if "file_name" in entry:
                    entry["source_name"] = entry.pop("file_name")
                for name in pictures:
                    entry[f"{name}_file_name"] = _write_picture(row[name], root / name / f"{number:06d}")
                metadata.write(json.dumps(entry) + "\n")


def _write_picture(stored: dict[str, Any], path: Path) -> str:
    """Write a stored picture, and return its name relative to the folder of the metadata."""
    if stored["bytes"] is None:
        path = path.with_suffix(Path(stored["path"]).suffix.lower())
        shutil.copyfile(stored["path"], path)
    else:
        path = path.with_suffix(ENCODED_SUFFIX)
        path.write_bytes(stored["bytes"])
    return f"{path.parent.name}/{path.name}"


def check_new(folder: Path) -> None:
    """Make sure that a folder can be made.

    Args:
        folder: to make.

    Raises:
        ValueError: it exists.
        OSError: the folder that it would lie in does not exist, or cannot be written.
    """
    if folder.exists():
        raise ValueError(f"`output` must not exist yet, got {folder}; remove it, or choose another name")
    parent = folder.resolve().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OSError(f"`output` must be in a folder that can be written, got {folder}; choose another place")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes its place only when it is whole."""
    check_new(folder)
    unfinished = folder.resolve().with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        yield unfinished
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
