"""Which files the command writes: every input has an output with a name of its own, and none is written by mistake."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, zip_longest
from pathlib import Path

from dpmambair.console import Problems, note
from dpmambair.files import shorten_name
from dpmambair.search import format_of, sniff, suffix_of
from dpmambair.settings import FORMATS, Settings

TAR = ".tar"
# Of the formats whose own names are none, by Pillow's names.
SUFFIXES = {"JPEG2000": ".jp2"} | dict(FORMATS.values())


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Attributes:
        source: the degraded picture, or a tar archive of them.
        output: folder of the results.
        name: of the file to write, its path below `output`.
        comparison_name: likewise of the side-by-side picture, if there is one.
    """

    source: Path
    output: Path
    name: str
    comparison_name: str | None = None

    @property
    def target(self) -> Path:
        """The file to write."""
        return self.output / self.name

    @property
    def comparison(self) -> Path | None:
        """The side-by-side picture to write too, if any."""
        return self.output / self.comparison_name if self.comparison_name else None

    @property
    def is_tar(self) -> bool:
        """Whether pictures in a tar archive are to be restored."""
        return suffix_of(self.source) == TAR

    @property
    def caption(self) -> str:
        """Its name in the grid."""
        return os.path.splitext(self.name)[0]

    @property
    def files(self) -> dict[str, Path]:
        """Everything that it writes, by the names of the manifest."""
        return {name: self.output / name for name in (self.name, self.comparison_name) if name}


def name_output(name: str, source: Path, settings: Settings) -> str:
    """Return the name of an output: that of its input, with another suffix where its format is another.

    Args:
        name: of the input, with or without its folders.
        source: the input, whose content tells the format if its name does not.
        settings: choose the format.
    """
    folder, base = os.path.split(name)
    if suffix_of(base) == TAR:
        return name
    told = format_of(base)
    wanted = settings.choose_format(told or sniff(source))
    if told == wanted:
        return name
    stem = os.path.splitext(base)[0] if told else base
    return os.path.join(folder, shorten_name(stem, SUFFIXES.get(wanted, f".{wanted.lower()}")))


def name_apart(
    wanted: Sequence[str], given: Sequence[str], taken: set[str], locate: Callable[[str], str] = str
) -> list[str]:
    """Return names of which no two are alike, the same in every run over the same inputs.

    An input whose name stays keeps it. Of others that would be called alike the first is called so; the next have the
    input's suffix before their own, or a number.

    Args:
        wanted: what the outputs would be called.
        given: what the inputs are called.
        taken: places that are taken; those of the names that are returned are added.
        locate: tells the place of a name.
    """
    names = list(wanted)

    def is_free(name: str) -> bool:
        place = locate(name)
        return place not in taken and not taken.add(place)

    in_order = sorted(range(len(names)), key=lambda index: wanted[index] != given[index])
    for index in sorted(index for index in in_order if not is_free(wanted[index])):
        names[index] = next(filter(is_free, _alternatives(wanted[index], given[index])))
    return names


def _alternatives(wanted: str, given: str) -> Iterator[str]:
    folder, base = os.path.split(wanted)
    stem, suffix = os.path.splitext(base)
    former = os.path.splitext(given)[1]
    endings = [former + suffix] if wanted != given and former else []
    for ending in chain(endings, (f"_{number}{suffix}" for number in count(2))):
        yield os.path.join(folder, shorten_name(stem, ending))


def make_jobs(
    found: Sequence[tuple[Path, Path]], output: Path, settings: Settings, compare: bool, grid: Path | None
) -> list[Job]:
    """Name the outputs of all inputs.

    Args:
        found: inputs, each with its place below the output folder.
        output: that folder.
        settings: choose the formats.
        compare: whether side-by-side pictures are written too.
        grid: file of the overview, if one is written.

    Raises:
        ValueError: an output, or the overview, would overwrite an input or an output.
    """
    locate, taken = _Locator(), set()
    given = [os.path.join(output, place) for _, place in found]
    wanted = [name_output(name, source, settings) for name, (source, _) in zip(given, found, strict=True)]
    targets = name_apart(wanted, given, taken, locate)
    beside = [_name_comparison(target) for target in targets] if compare else []
    comparisons = name_apart(beside, beside, taken, locate)
    jobs = []
    for (source, _), target, comparison in zip_longest(found, targets, comparisons):
        beside = None if comparison is None or suffix_of(source) == TAR else os.path.relpath(comparison, output)
        jobs.append(Job(source, output, os.path.relpath(target, output), beside))
    _check_outputs(jobs, taken, grid, locate)
    return jobs


def _name_comparison(target: str) -> str:
    folder, base = os.path.split(target)
    return os.path.join(folder, shorten_name(os.path.splitext(base)[0], "_compare.png"))


class _Locator:
    """Tells where a file is, or would be, however its folder is called."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        folder, base = os.path.split(name)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], base)


def _check_outputs(jobs: Sequence[Job], taken: set[str], grid: Path | None, locate: Callable[[str], str]) -> None:
    sources = {locate(os.fspath(job.source)) for job in jobs}
    sources |= {os.path.realpath(job.source) for job in jobs if os.path.islink(job.source)}
    planned = [("--output", file) for job in jobs for file in job.files.values()]
    planned += [("--grid", grid)] if grid else []
    for option, file in planned:
        if locate(os.fspath(file)) in sources:
            raise ValueError(f"`{option}` must not overwrite inputs, got {file}; choose another")
    if grid and locate(os.fspath(grid)) in taken:
        raise ValueError(f"`--grid` must have a name of its own, got {grid}, which is an output; choose another")


@dataclass
class Outlook:
    """What is to be done about jobs.

    Attributes:
        todo: to be restored.
        before: restored by an earlier run, with the same result.
        skipped: left, because their files exist.
    """

    todo: list[Job] = field(default_factory=list)
    before: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)


def sort_jobs(
    jobs: Sequence[Job],
    is_own: Callable[[Job, str], bool],
    overwrite: bool,
    skip_existing: bool,
    problems: Problems,
) -> Outlook:
    """Sort jobs by what is to be done about them; those whose files exist and may not be replaced are failures.

    Args:
        jobs: all of this run.
        is_own: tells of a file that exists, by its job and its name, whether it is what the job would make.
        overwrite: whether other files are replaced.
        skip_existing: whether other files are left, and no failure.
        problems: collects failures.
    """
    outlook = Outlook()
    for job in jobs:
        existing = [name for name, file in job.files.items() if os.path.lexists(file)]
        foreign = next((job.files[name] for name in existing if not is_own(job, name)), None)
        if foreign is None:
            # Of several files a killed run may have written some.
            (outlook.before if len(existing) == len(job.files) else outlook.todo).append(job)
        elif skip_existing:
            outlook.skipped.append(job)
        elif os.path.isdir(foreign):
            problems.add(job.source, ValueError(f"{foreign} is a folder; choose another --output"))
        elif not overwrite:
            remedy = "--overwrite to replace it, or --skip-existing to leave it"
            problems.add(job.source, ValueError(f"{foreign} exists; give {remedy}"))
        else:
            outlook.todo.append(job)
    return outlook


def make_folders(jobs: Sequence[Job], problems: Problems) -> list[Job]:
    """Make the folders of all outputs, and return the jobs that can be written; the others are failures.

    Args:
        jobs: to be restored.
        problems: collects failures.
    """
    errors: dict[Path, OSError] = {}
    for folder in dict.fromkeys(job.target.parent for job in jobs):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        except OSError as error:
            errors[folder] = error
    for job in jobs:
        if job.target.parent in errors:
            problems.add(job.source, errors[job.target.parent])
    return [job for job in jobs if job.target.parent not in errors]


def tell_converted(jobs: Sequence[Job]) -> None:
    """Say which formats become another because they are not written."""
    named = [job for job in jobs if format_of(job.source)]
    kinds = Counter(suffix_of(job.source) for job in named if format_of(job.name) != format_of(job.source))
    if kinds:
        listed = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
        note(f"written as PNG, because this Pillow does not write their own format: {listed}")
