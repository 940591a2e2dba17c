"""The front door: every corpus and every recipe by its name."""

import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import DataLoader

from dataset_scripts import load_restoration_dataset

from .conftest import draw_picture

COLUMNS = {"degraded", "clean", "task", "severity", "record", "file_name", "index"}


@pytest.fixture
def corpus(tmp_path):
    """Rain100L's test split in miniature."""
    for folder in ("input", "target"):
        (tmp_path / "corpus/test" / folder).mkdir(parents=True)
        for number in range(2):
            path = tmp_path / f"corpus/test/{folder}/{number}.png"
            Image.fromarray(draw_picture(20, 30, number)).save(path)
    return tmp_path / "corpus"


@pytest.mark.parametrize("streaming", [False, True])
def test_corpora_and_recipes_have_the_same_columns(folder, corpus, tmp_path, streaming):
    options = {"streaming": streaming, "cache_dir": tmp_path / "cache"}
    real = load_restoration_dataset("rain100l", corpus, split="test", **options)
    synthetic = load_restoration_dataset("noise_sigma25", folder, seed=1, **options)
    assert set(real.column_names) == set(synthetic.column_names) == COLUMNS
    assert real.features == synthetic.features
    assert [next(iter(pairs))["task"] for pairs in (real, synthetic)] == ["rain", "noise"]


def test_two_ranks_with_two_workers_stream_every_pair_once(folder, tmp_path):
    stream = load_restoration_dataset("noise", folder, streaming=True, cache_dir=tmp_path)
    stream = stream.select_columns(["index"])
    shown = []
    for rank in range(2):
        part = split_dataset_by_node(stream, rank=rank, world_size=2)
        shown += [row["index"] for row in DataLoader(part, batch_size=None, num_workers=2)]
    assert sorted(shown) == list(range(9))


def test_unknown_name_is_refused(folder):
    with pytest.raises(ValueError, match=r"`name` must be a corpus \(.*rain100l.*\) or a recipe \(.*\), got 'fog'"):
        load_restoration_dataset("fog", folder)


def test_split_of_a_recipe_is_refused(folder):
    with pytest.raises(ValueError, match="`split` must be None for noise, got 'test'; give the folder of that split"):
        load_restoration_dataset("noise", folder, split="test")


@pytest.mark.parametrize(("name", "option", "others"), [("rain100l", "seed", "task"), ("noise", "task", "seed")])
def test_options_that_do_not_go_with_the_name_are_refused(folder, corpus, name, option, others):
    place = corpus if name == "rain100l" else folder
    with pytest.raises(
        ValueError, match=f"`{option}` must be left out for {name}, got 3; only .*{others}.* go with it"
    ):
        load_restoration_dataset(name, place, **{option: 3})
