"""What a run found, in one dictionary: means of every method on every set."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from evaluation.journal import Key
from evaluation.pair_sets import PairSet
from restoration_metrics.scores import DEGRADED

Record = Mapping[str, Any]


def summarize(sets: Sequence[PairSet], records: Mapping[Key, Record]) -> dict[str, Any]:
    """Average what was measured.

    Args:
        sets: all sets, in the order to report.
        records: by set and place: `size`, height and width, and `scores`, of each method its numbers by name.

    Returns:
        `sets`, of each set that has pictures what it is and the `scores` of every method, as `average_method` returns
        them; `overall`, the means over all sets of the methods that ran on each.
    """
    summaries = []
    for pair_set in sets:
        own = [
            records[pair_set.name, each.index] for each in pair_set.entries if (pair_set.name, each.index) in records
        ]
        if own:
            summaries.append(summarize_set(pair_set, own))
    everywhere = [method for method in _list_methods(summaries) if all(method in each["scores"] for each in summaries)]
    overall = {method: _average_sets([each["scores"][method] for each in summaries]) for method in everywhere}
    return {"sets": summaries, "overall": overall}


def _list_methods(summaries: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(method for each in summaries for method in each["scores"]))


def _average_sets(means: Sequence[Record]) -> dict[str, float]:
    names = [name for name, value in means[0].items() if isinstance(value, float)]
    return {name: fmean(each[name] for each in means) for name in names}


def summarize_set(pair_set: PairSet, records: Sequence[Record]) -> dict[str, Any]:
    """Describe a set and average its scores.

    Args:
        pair_set: the set.
        records: of its pictures, at least one, by their places.

    Returns:
        `name`, `task`, `folder`, `pairs` (measured), `published` (of the whole corpus, or None), `size` (height and
        width where all pictures have the same, or None) and `scores`.
    """
    sizes = {tuple(record["size"]) for record in records}
    return {
        "name": pair_set.name,
        "task": pair_set.task,
        "folder": pair_set.folder,
        "pairs": len(records),
        "published": pair_set.published,
        "size": list(sizes.pop()) if len(sizes) == 1 else None,
        "scores": {method: average_method(method, records) for method in records[0]["scores"]},
    }


def average_method(method: str, records: Sequence[Record]) -> dict[str, Any]:
    """Average what a method reached on the pictures of a set.

    Args:
        method: its name.
        records: of the pictures, at least one.

    Returns:
        The mean of every number; except for `DEGRADED` also `psnr_gains`: the `lowest`, `median` and `highest` gain in
        PSNR over the degraded picture, dB, and `worse`, how many lost.
    """
    scores = [record["scores"][method] for record in records]
    means: dict[str, Any] = {name: fmean(each[name] for each in scores) for name in scores[0]}
    if method != DEGRADED:
        pairs = (
            (each["psnr"], record["scores"][DEGRADED]["psnr"]) for each, record in zip(scores, records, strict=True)
        )
        # What was and stays identical to the clean picture gains nothing, though infinity minus itself is no number.
        gains = [0.0 if after == before else after - before for after, before in pairs]
        spread = {"lowest": min(gains), "median": median(gains), "highest": max(gains)}
        means["psnr_gains"] = spread | {"worse": sum(gain < 0 for gain in gains)}
    return means


def flatten(sets: Sequence[PairSet], records: Mapping[Key, Record]) -> list[dict[str, Any]]:
    """List what was measured by picture and method, as rows of a table.

    Args:
        sets: all sets, in the order to report.
        records: by set and place.

    Returns:
        Rows with `set`, `task`, `index`, `file_name`, `method` and every number.
    """
    rows = []
    for pair_set in sets:
        for entry in pair_set.entries:
            record = records.get((pair_set.name, entry.index), {"scores": {}})
            identity = {"set": pair_set.name, "task": pair_set.task, "index": entry.index, "file_name": entry.name}
            rows += [identity | {"method": method} | dict(scores) for method, scores in record["scores"].items()]
    return rows


def make_strict(value: Any) -> Any:
    """Replace numbers that JSON does not have, such as the PSNR of identical pictures, by None.

    Args:
        value: nested dictionaries, lists and plain values.
    """
    if isinstance(value, dict):
        return {key: make_strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [make_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
