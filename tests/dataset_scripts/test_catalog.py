"""The corpora as data: complete, consistent, and with the numbers that the paper names."""

import re
from dataclasses import FrozenInstanceError
from pathlib import Path, PurePosixPath

import pytest

from dataset_scripts.catalog import CORPORA
from dataset_scripts.degradations import KINDS
from dataset_scripts.unseen import UNSEEN

SPLITS = {
    f"{name} {split}": (corpus, corpus.splits[split]) for name, corpus in CORPORA.items() for split in corpus.splits
}
LAYOUTS = {f"{label} {i}": layout for label, (_, split) in SPLITS.items() for i, layout in enumerate(split.layouts)}


def words(template):
    return set(re.findall(r"{(\w+)}", template))


def assert_each(entries, *rules):
    """Check that every entry keeps every rule, a function that returns whether it does; list all that do not."""
    offenders = [
        f"{label}: {', '.join(broken)}"
        for label, entry in entries.items()
        if (broken := [rule.__name__ for rule in rules if not rule(entry)])
    ]
    assert entries
    if offenders:
        pytest.fail("\n".join(offenders), pytrace=False)


def test_corpora_say_where_they_come_from_and_what_may_be_done_with_them():
    def is_found_by_its_name(corpus):
        return CORPORA[corpus.name] is corpus

    def has_a_licence(corpus):
        return bool(corpus.licence)

    def has_an_address(corpus):
        return corpus.name == "paired_folders" or corpus.source.startswith("https://")

    def cites_a_year(corpus):
        return corpus.name == "paired_folders" or re.search(r" (19|20)\d\d$", corpus.citation)

    assert_each(CORPORA, is_found_by_its_name, has_a_licence, has_an_address, cites_a_year)


def test_task_is_a_kind_unless_pairs_differ_or_are_missing():
    def has_pairs_unless_clean(corpus):
        layouts = [layout for split in corpus.splits.values() for layout in split.layouts]
        return {layout.degraded is not None for layout in layouts} == {corpus.task != "clean"}

    def has_a_known_task(corpus):
        return corpus.task in (*KINDS, *UNSEEN, "mixed", "clean")

    assert_each(CORPORA, has_pairs_unless_clean, has_a_known_task)


def test_splits_have_folders_layouts_and_a_count():
    def is_train_or_test(entry):
        return entry[0].splits.keys() <= {"train", "test"}

    def has_folders_and_layouts(entry):
        return entry[1].folders and entry[1].layouts

    def has_a_count(entry):
        return (entry[1].count or 0) > 0 or entry[0].name == "paired_folders"

    def repeats_no_layout(entry):
        return len(set(map(str, entry[1].layouts))) == len(entry[1].layouts)

    assert_each(SPLITS, is_train_or_test, has_folders_and_layouts, has_a_count, repeats_no_layout)


def test_clean_name_follows_from_the_degraded_one():
    def follows(layout):
        return layout.degraded is None or (words(layout.clean) and words(layout.clean) <= words(layout.degraded))

    def ends_in_a_suffix(layout):
        return all(PurePosixPath(name).suffix for name in (layout.clean, layout.degraded) if name is not None)

    assert_each(LAYOUTS, follows, ends_in_a_suffix)


def test_tasks_are_kinds_in_their_order():
    def has_tasks_where_a_name_tells_them(layout):
        return bool(layout.tasks) == ("task" in words(layout.degraded or ""))

    def orders_kinds(layout):
        named = [task.split("+") for task in layout.tasks.values()]
        return all(kinds == [kind for kind in KINDS if kind in kinds] for kinds in named)

    assert_each(LAYOUTS, has_tasks_where_a_name_tells_them, orders_kinds)


def test_counts_are_those_that_the_paper_trains_and_tests_on():
    counts = {(name, label): split.count for name, corpus in CORPORA.items() for label, split in corpus.splits.items()}
    assert (counts["reside6k", "train"], counts["reside6k", "test"]) == (6000, 1000)
    assert (counts["rain13k", "train"], counts["rain100h", "test"]) == (13711, 100)
    assert counts["lol", "train"] + counts["lsrw", "train"] == 6085
    assert counts["lol", "test"] + counts["lsrw", "test"] == 65
    assert (counts["gopro", "train"], counts["gopro", "test"]) == (2103, 1111)
    assert (counts["waterlooed", "train"], counts["bsd400", "test"]) == (4744, 400)


def test_counts_of_parts_add_up():
    sizes = [CORPORA[f"snow100k_{size}"].splits["test"].count for size in "sml"]
    assert sum(sizes) == CORPORA["snow100k"].splits["test"].count == 50_000
    # 1,183 and 200 scenes, each degraded in eleven ways.
    assert [CORPORA["cdd11"].splits[split].count for split in ("train", "test")] == [1183 * 11, 200 * 11]
    # 2,061 scenes at 35 densities, 1,399 rooms at 10, 200 photographs under 14 rains.
    assert CORPORA["reside_ots"].splits["train"].count == 2061 * 35
    assert CORPORA["reside_its"].splits["train"].count == 1399 * 10
    assert CORPORA["test2800"].splits["test"].count == 200 * 14


def test_entries_cannot_be_changed_by_accident():
    with pytest.raises(FrozenInstanceError):
        CORPORA["lol"].task = "blur"


def test_documented_counts_licences_and_sources_are_the_catalogs():
    text = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")

    def is_documented_so(corpus):
        counts = [f"{corpus.splits[split].count:,}" if split in corpus.splits else "" for split in ("train", "test")]
        cells = [f"`{corpus.name}`", corpus.task, *counts, corpus.licence, f"[{corpus.citation}]({corpus.source})"]
        return f"| {' | '.join(cells)} |" in text

    assert_each({name: corpus for name, corpus in CORPORA.items() if name != "paired_folders"}, is_documented_so)
