"""Published pairs, read again in a fresh process that cannot import our package."""

import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from dataset_scripts import load_restoration_dataset, load_synthetic
from dataset_scripts.publishing import write_imagefolder, write_parquet

# Prints, for each dataset and row, the columns of text and numbers, and the sum and shape of both pictures.
READER = """
import json, sys
import numpy as np
from datasets import Image, load_dataset


class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("dataset_scripts", "modeling_dpmambair", "training"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# The stranger has none of our packages, wherever they might be installed.
sys.meta_path.insert(0, Absent)
for arguments in json.loads(sys.argv[1]):
    dataset = load_dataset(*arguments, split="train", cache_dir=sys.argv[2])
    assert isinstance(dataset.features["degraded"], Image) and isinstance(dataset.features["clean"], Image)
    rows = []
    for row in dataset:
        pictures = {name: np.asarray(row.pop(name).convert("RGB")) for name in ("degraded", "clean")}
        rows.append({**row, **{name: [int(p.astype(int).sum()), *p.shape] for name, p in pictures.items()}})
    print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def pairs(folder, tmp_path_factory):
    return load_synthetic("seven_kinds_composites", folder, seed=3, cache_dir=tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def read(pairs, tmp_path_factory) -> dict[str, list[dict]]:
    """Rows of both published forms, as plain `load_dataset` gives them in another process and folder."""
    root = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dataset_scripts.publishing.PAIRS_PER_FILE", 4)
        write_parquet(pairs, root / "parquet", "train")
    write_imagefolder(pairs, root / "imagefolder", "train")
    calls = [[str(root / "parquet")], ["imagefolder", None, str(root / "imagefolder")]]
    command = [sys.executable, "-I", "-c", READER, json.dumps(calls), str(root / "cache")]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {"root": root} | dict(
        zip(("parquet", "imagefolder"), map(json.loads, result.stdout.splitlines()), strict=True)
    )


def summarise(row: dict) -> dict:
    pictures = {name: np.asarray(row[name]) for name in ("degraded", "clean")}
    return {**row, **{name: [int(p.astype(int).sum()), *p.shape] for name, p in pictures.items()}}


@pytest.mark.ci
@pytest.mark.slow
def test_parquet_loads_elsewhere_without_our_package(pairs, read):
    assert read["parquet"] == [summarise(row) for row in pairs]


@pytest.mark.ci
@pytest.mark.slow
def test_parquet_is_split_into_files_that_name_no_folder_of_this_machine(read, folder):
    files = sorted((read["root"] / "parquet/data").iterdir())
    assert [path.name for path in files] == [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    assert not any(str(folder).encode() in path.read_bytes() for path in files)


@pytest.mark.ci
@pytest.mark.slow
def test_imagefolder_loads_elsewhere_without_our_package(pairs, read, folder):
    rows, expected = read["imagefolder"], [summarise(row) for row in pairs]
    for row in expected:
        row["source_name"] = row.pop("file_name")
        # Values of 32 bits pass through decimal text.
        row["severity"] = pytest.approx(row["severity"], rel=1e-6)
    assert rows == expected
    root = read["root"] / "imagefolder/train"
    assert (root / "clean/000001.jpg").read_bytes() == (folder / "b.jpg").read_bytes()
    with Image.open(root / "degraded/000001.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("write", [write_parquet, write_imagefolder])
def test_existing_folder_is_refused_and_a_failure_leaves_nothing(pairs, tmp_path, write, monkeypatch):
    (tmp_path / "published").mkdir()
    with pytest.raises(ValueError, match="`output` must not exist yet, got .*/published; remove it"):
        write(pairs, tmp_path / "published", "train")
    (tmp_path / "published").rmdir()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(pairs, tmp_path / "published", "train")
    assert not list(tmp_path.iterdir())


def test_imagefolder_of_a_clean_corpus_has_its_clean_pictures_alone(tmp_path):
    (tmp_path / "kodak").mkdir()
    for number in range(1, 25):
        Image.new("RGB", (768, 512), (number, 0, 0)).save(tmp_path / f"kodak/kodim{number:02}.png")
    corpus = load_restoration_dataset("kodak24", tmp_path / "kodak", cache_dir=tmp_path / "cache")
    write_imagefolder(corpus, tmp_path / "published", "test")
    found = load_dataset("imagefolder", data_dir=str(tmp_path / "published"), cache_dir=str(tmp_path / "cache"))[
        "test"
    ]
    assert len(found) == 24
    assert found[3]["clean"].getpixel((0, 0)) == (4, 0, 0)
    assert "degraded" not in found.column_names
