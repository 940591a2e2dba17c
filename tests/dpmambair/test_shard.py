"""Sharing the work: every output belongs to one process, whoever else is there."""

import pytest

from dpmambair.shard import Shard, choose_shard

NAMES = [f"folder{number % 7}/IMG_{number:04}.jpg" for number in range(1000)]


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_output_belongs_to_one_shard_of_about_one_size(count):
    shards = [[name for name in NAMES if Shard(index, count).has(name)] for index in range(1, count + 1)]
    assert sorted(name for shard in shards for name in shard) == sorted(NAMES)
    expected = len(NAMES) / count
    assert all(abs(len(shard) - expected) <= 5 * expected**0.5 for shard in shards)


def test_a_file_that_comes_later_changes_no_other_file_s_shard():
    before = {name for name in NAMES[::2] if Shard(1, 2).has(name)}
    assert before == {name for name in NAMES if Shard(1, 2).has(name)} & set(NAMES[::2])


def test_the_shard_is_given_or_told_by_the_launcher_or_all():
    environment = {"RANK": "2", "WORLD_SIZE": "4"}
    assert choose_shard(None, {}) == choose_shard(None, {"RANK": "2"}) == Shard(1, 1)
    assert choose_shard(None, environment) == Shard(3, 4, is_launched=True)
    assert choose_shard("1/2", environment) == Shard(1, 2)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0", "1/2/3", "½/2"])
def test_an_impossible_shard_is_refused(text):
    with pytest.raises(ValueError, match="`--shard` must be I/N with I from 1 to N"):
        choose_shard(text, {})


def test_an_impossible_rank_is_refused():
    with pytest.raises(ValueError, match="`RANK/WORLD_SIZE` must be I/N with I from 0 to N - 1, got 4/4"):
        choose_shard(None, {"RANK": "4", "WORLD_SIZE": "4"})
