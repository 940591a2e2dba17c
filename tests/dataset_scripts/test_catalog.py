"""The corpora as data: complete, consistent, and with the numbers that the paper names."""

import re
from dataclasses import FrozenInstanceError
from pathlib import Path, PurePosixPath

import pytest

from dataset_scripts.catalog import CORPORA
from dataset_scripts.degradations import KINDS

SPLITS = {
    f"{name} {split}": (corpus, corpus.splits[split]) for name, corpus in CORPORA.items() for split in corpus.splits
}
LAYOUTS = {f"{label} {i}": layout for label, (_, split) in SPLITS.items() for i, layout in enumerate(split.layouts)}

every_corpus = pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
every_split = pytest.mark.parametrize(("corpus", "split"), SPLITS.values(), ids=SPLITS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def words(template: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", template))


@every_corpus
def test_corpus_says_where_it_comes_from_and_what_may_be_done_with_it(corpus):
    assert CORPORA[corpus.name] is corpus
    assert corpus.licence
    assert corpus.name == "paired_folders" or corpus.source.startswith("https://")
    assert corpus.name == "paired_folders" or re.search(r", (19|20)\d\d$| (19|20)\d\d$", corpus.citation)


@every_corpus
def test_task_is_a_kind_unless_pairs_differ_or_are_missing(corpus):
    layouts = [layout for split in corpus.splits.values() for layout in split.layouts]
    has_pairs = {layout.degraded is not None for layout in layouts}
    assert has_pairs == {corpus.task != "clean"}
    assert corpus.task in (*KINDS, "mixed", "clean")


@every_split
def test_split_has_folders_layouts_and_a_count(corpus, split):
    assert corpus.splits.keys() <= {"train", "test"}
    assert split.folders
    assert split.layouts
    assert (split.count or 0) > 0 or corpus.name == "paired_folders"
    assert len(set(map(str, split.layouts))) == len(split.layouts)


@every_layout
def test_clean_name_follows_from_the_degraded_one(layout):
    if layout.degraded is not None:
        assert words(layout.clean) <= words(layout.degraded)
        assert words(layout.clean)
        assert PurePosixPath(layout.degraded).suffix
    assert PurePosixPath(layout.clean).suffix


@every_layout
def test_tasks_are_kinds_in_their_order(layout):
    assert bool(layout.tasks) == ("task" in words(layout.degraded or ""))
    for task in layout.tasks.values():
        kinds = task.split("+")
        assert kinds == [kind for kind in KINDS if kind in kinds]


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


@every_corpus
def test_documented_counts_licence_and_source_are_the_catalog_s(corpus):
    if corpus.name == "paired_folders":
        return
    text = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    counts = [f"{corpus.splits[split].count:,}" if split in corpus.splits else "" for split in ("train", "test")]
    cells = [f"`{corpus.name}`", corpus.task, *counts, corpus.licence, f"[{corpus.citation}]({corpus.source})"]
    assert f"| {' | '.join(cells)} |" in text
