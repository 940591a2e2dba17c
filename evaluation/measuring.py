"""Measuring picture after picture: whatever happens to one, the others are measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from tqdm import tqdm

from dpmambair.console import complain
from dpmambair.files import replacing
from evaluation.methods import Restore
from evaluation.pair_sets import Entry, PairSet
from restoration_metrics.figures import join_pictures
from restoration_metrics.scores import DEGRADED, Scorer

PICTURES_PER_SET = 4


@dataclass(frozen=True)
class Meter:
    """Measures pictures.

    Attributes:
        methods: by the name of a set, its methods by name.
        scorer: gives the numbers.
        pictures: folder for comparisons of the first pictures of each set; None for none.
    """

    methods: Mapping[str, Mapping[str, Restore]]
    scorer: Scorer
    pictures: Path | None = None

    def measure(self, pair_set: PairSet, entry: Entry) -> dict[str, Any]:
        """Restore a picture by every method of its set, and score it.

        Args:
            pair_set: the set.
            entry: the picture.

        Returns:
            The journal's record: `set`, `index`, `size` (height and width), and `scores` by method.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file is no picture that can be measured.
            RuntimeError: a method failed; the text says which, and why.
        """
        degraded, clean = entry.read()
        scores, shown = {DEGRADED: self.scorer(degraded, clean)}, [degraded]
        for name, restore in self.methods[pair_set.name].items():
            try:
                restored = restore(degraded)
            except Exception as error:
                raise RuntimeError(f"{name}: {str(error) or type(error).__name__}") from error
            scores[name] = self.scorer(restored, clean)
            shown.append(restored)
        if self.pictures is not None and entry.index < PICTURES_PER_SET:
            path = self.pictures / pair_set.name.replace("/", "-") / f"{entry.index}.png"
            with replacing(path) as partial:
                join_pictures([*shown, clean]).save(partial, format="PNG")
        return {"set": pair_set.name, "index": entry.index, "size": [clean.height, clean.width], "scores": scores}


@dataclass
class Failures:
    """The pictures of one process that could not be measured.

    Attributes:
        names: set and file name of each.
        texts: what was said; a file that serves several sets is reported once.
    """

    names: list[tuple[str, str]] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)

    def add(self, pair_set: PairSet, entry: Entry, error: Exception) -> None:
        """Report a picture in one line on stderr.

        Args:
            pair_set: its set.
            entry: the picture.
            error: what happened.
        """
        self.names.append((pair_set.name, entry.name))
        text = f"{entry.name}: {' '.join(str(error).split()) or type(error).__name__}"
        if text not in self.texts:
            complain(text)
        self.texts.add(text)

    def gather(self) -> dict[str, list[str]]:
        """Return the names that failed in all processes, by set; every process must call this."""
        found: dict[str, list[str]] = {}
        for name, file_name in sorted(gather_object(self.names)):
            found.setdefault(name, []).append(file_name)
        return found


def measure_all(
    work: Sequence[tuple[PairSet, Entry]], meter: Meter, append: Callable[[Mapping[str, Any]], None], progress: tqdm
) -> Failures:
    """Measure pictures one by one; report those that fail on stderr and go on.

    Args:
        work: sets and pictures.
        meter: measures them.
        append: keeps each record.
        progress: advances by one per picture.

    Returns:
        The failures.
    """
    failures = Failures()
    for pair_set, entry in work:
        try:
            record = meter.measure(pair_set, entry)
        except Exception as error:
            failures.add(pair_set, entry, error)
        else:
            append(record)
        progress.update()
    return failures
