"""The protocols by name: complete, of the right tasks, and read from the corpora's own layouts."""

import pytest

from dataset_scripts import CORPORA, KINDS, MIXTURES, RECIPES, RestorationMixture, load_mixture
from tests.dataset_scripts.miniatures import build_five_tasks

PARTS = [(name, task, part) for name, tasks in MIXTURES.items() for task, both in tasks.items() for part in both]


def test_parts_have_corpora_of_their_task_or_clean_ones_and_a_recipe():
    def fits(task, part):
        wanted = task if part.recipe is None else "clean"
        has_corpora = all(
            split in CORPORA[name].splits and CORPORA[name].task == wanted for name, split in part.corpora
        )
        return has_corpora and (part.recipe is None or RECIPES[part.recipe].kinds == (task,))

    assert PARTS
    assert [(name, task, part) for name, task, part in PARTS if not fits(task, part)] == []


def test_protocols_have_the_numbers_of_pairs_that_papers_give():
    def count(name, task, place):
        return sum(CORPORA[corpus].splits[split].count for corpus, split in MIXTURES[name][task][place].corpora)

    assert set(MIXTURES["seven_tasks"]) == set(KINDS)
    assert [count("seven_tasks", "low_light", place) for place in (0, 1)] == [6085, 65]
    assert [count("five_tasks", "noise", place) for place in (0, 1)] == [400 + 4744, 68]
    assert [count("five_tasks", task, 1) for task in ("haze", "rain", "blur", "low_light")] == [500, 100, 1111, 15]


@pytest.mark.parametrize("split", ["train", "test"])
def test_five_tasks_load_and_mix(tmp_path, split):
    build_five_tasks(tmp_path / "data", split)
    sets = load_mixture("five_tasks", tmp_path / "data", split, cache_dir=tmp_path / "cache")
    assert list(sets) == ["haze", "rain", "noise", "blur", "low_light"]
    assert len(sets["noise"]) == (3 if split == "train" else 1)
    mixture = RestorationMixture(sets, "balanced", patch_size=8, epoch_size=10)
    assert sorted(mixture[place]["task"] for place in range(10)) == sorted(2 * list(sets))


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`name` must be one of seven_tasks, five_tasks, got 'six'; check"):
        load_mixture("six", tmp_path, "train")
    with pytest.raises(ValueError, match="`split` must be 'train' or 'test', got 'val'; choose"):
        load_mixture("five_tasks", tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="`data_dir` must exist, got .*reside_ots"):
        load_mixture("five_tasks", tmp_path, "train")
