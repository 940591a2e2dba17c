"""The all-in-one mixture: its shares, and that nothing but (seed, epoch, index) matters."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from dataset_scripts import RECIPES, RestorationMixture, RestorationSet, load_synthetic
from dataset_scripts.mixture import apportion, interleave

SEED = 7


@pytest.fixture(scope="module")
def sets(folder, dataset, tmp_path_factory):
    """Real pairs of snow, and clean photographs for noise and for composites."""
    pairs = load_synthetic("snow_mid", folder, cache_dir=tmp_path_factory.mktemp("cache"))
    return {
        "snow": RestorationSet(pairs),
        "noise": RestorationSet(dataset.select(range(4)), RECIPES["noise_sigma25"]),
        "composites": RestorationSet(dataset.select(range(3)), RECIPES["composites"]),
    }


@pytest.fixture
def mixture(sets) -> RestorationMixture:
    return RestorationMixture(sets, "natural", patch_size=16, seed=SEED)


def visits(mixture: RestorationMixture, epoch: int) -> list[tuple[str, int]]:
    return [mixture.locate(index, epoch) for index in range(len(mixture))]


def as_key(example) -> tuple:
    return example["record"], example["task"], example["labels"].numpy().tobytes()


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch["task"] == other["task"]
        assert batch["record"] == other["record"]
        assert all(torch.equal(batch[name], other[name]) for name in ("pixel_values", "labels", "severity"))


# Shares


def test_natural_epoch_shows_every_picture_once_in_another_order_each_time(sets, mixture):
    everything = sorted((name, index) for name, members in sets.items() for index in range(len(members)))
    epochs = [visits(mixture, epoch) for epoch in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_balanced_epoch_gives_each_set_the_same_share(sets):
    mixture = RestorationMixture(sets, "balanced", 16, epoch_size=30)
    assert Counter(name for name, _ in visits(mixture, 0)) == {"snow": 10, "noise": 10, "composites": 10}


@pytest.mark.parametrize("unit", [1, 10])
def test_weights_are_respected_in_the_epoch_and_nearly_in_every_stretch_of_it(sets, unit):
    weights = {"composites": 5 * unit, "snow": unit, "noise": 2 * unit}
    mixture = RestorationMixture(sets, weights, 16, epoch_size=80)
    names = [name for name, _ in visits(mixture, 3)]
    assert Counter(names) == {"snow": 10, "noise": 20, "composites": 50}
    for start in range(0, 80, 16):
        counts = Counter(names[start : start + 16])
        assert abs(counts["snow"] - 2) <= 1
        assert abs(counts["composites"] - 10) <= 1


def test_pictures_of_a_set_are_shown_equally_often_across_epochs(sets):
    mixture = RestorationMixture(sets, "balanced", 16, epoch_size=15)
    shown = Counter(itertools.chain.from_iterable(visits(mixture, epoch) for epoch in range(7)))
    for name, members in sets.items():
        counts = [shown[name, index] for index in range(len(members))]
        assert sum(counts) == 35
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("shares", [(1, 1, 1), (0.2, 0.5, 3.3), (4000, 6000, 13711, 5000, 6085, 2103, 4744)])
@pytest.mark.parametrize("total", [7, 100, 36_643])
def test_parts_sum_to_the_whole_and_are_off_by_less_than_one(shares, total):
    parts = apportion(shares, total)
    assert sum(parts) == total
    exact = np.array(shares) / sum(shares) * total
    assert np.abs(np.array(parts) - exact).max() < 1


def test_visits_of_each_set_are_counted_in_order():
    places = interleave((3, 5))
    for member, quota in enumerate((3, 5)):
        assert places[places[:, 0] == member, 1].tolist() == list(range(quota))


# Examples


def test_example_tells_task_severity_and_record(mixture):
    tasks = {"snow": {"snow"}, "noise": {"noise"}}
    for index in range(len(mixture)):
        example, (name, _) = mixture[index], mixture.locate(index, 0)
        assert example["pixel_values"].shape == example["labels"].shape == (3, 16, 16)
        present = example["severity"].count_nonzero()
        if name == "composites":
            assert present == example["task"].count("+") + 1 >= 2
        else:
            assert {example["task"]} == tasks[name]
            assert present == 1
    assert {mixture.locate(index, 0)[0] for index in range(len(mixture))} == {"snow", "noise", "composites"}


def test_same_seed_epoch_and_index_give_the_same_example_in_any_order(sets, mixture):
    order = list(range(len(mixture)))
    forwards = [as_key(mixture[index]) for index in order]
    other = RestorationMixture(sets, "natural", 16, seed=SEED)
    assert [as_key(other[index]) for index in order[::-1]][::-1] == forwards
    mixture.set_epoch(1)
    assert not set(map(as_key, (mixture[index] for index in order))) & set(forwards)


def test_patch_size_changes_without_rebuilding(mixture):
    loader = DataLoader(mixture, batch_size=4, num_workers=1, persistent_workers=True)
    for size in (16, 24):
        mixture.set_patch_size(size)
        assert {batch["labels"].shape[-2:] for batch in loader} == {(size, size)}


def test_batches_do_not_depend_on_the_number_of_workers(mixture):
    batches = [list(DataLoader(mixture, batch_size=5, num_workers=workers)) for workers in (0, 1, 2)]
    assert_same(batches[0], batches[1])
    assert_same(batches[0], batches[2])


# Ranks and workers


@pytest.mark.parametrize("epoch", [0, 1])
def test_two_ranks_with_two_workers_show_every_index_once(mixture, epoch):
    mixture.set_epoch(epoch)
    expected = Counter(as_key(mixture[index]) for index in range(len(mixture)))
    shown = Counter()
    for rank in range(2):
        sampler = DistributedSampler(mixture, num_replicas=2, rank=rank, seed=SEED)
        sampler.set_epoch(epoch)
        for batch in DataLoader(mixture, batch_size=3, num_workers=2, sampler=sampler, collate_fn=list):
            shown.update(map(as_key, batch))
    assert shown == expected


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weights": "equal"},
            "`weights` must be 'balanced', 'natural' or a weight of each set, got 'equal'",
        ),
        ({"weights": {"snow": 1}}, r"`weights` must give each of \['composites', 'noise', 'snow'\] a positive weight"),
        (
            {"weights": {"snow": 0, "noise": 1, "composites": 1}},
            r"`weights` must give each of .* a positive weight, got \{'snow': 0, .*; leave a set out of `sets`",
        ),
        ({"epoch_size": 2}, r"`epoch_size` must give each of the sets a patch, got 2 for shares \(1.0, 1.0, 1.0\)"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"patch_size": 0}, "`patch_size` must be at least 1, got 0"),
    ],
)
def test_arguments_outside_their_range_are_refused(sets, arguments, message):
    with pytest.raises(ValueError, match=message):
        RestorationMixture(sets, **{"weights": "balanced", "patch_size": 16, **arguments})


def test_no_sets_and_empty_sets_are_refused(sets, dataset):
    with pytest.raises(ValueError, match=r"`sets` must be one or more sets with pictures, got \{\}; leave"):
        RestorationMixture({}, "natural", 16)
    empty = RestorationSet(dataset.select([]), RECIPES["noise"])
    with pytest.raises(ValueError, match=r"`sets` must be one or more sets with pictures, got \{.*'empty': 0\}"):
        RestorationMixture({**sets, "empty": empty}, "natural", 16)
