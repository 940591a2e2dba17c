"""The loop over all files: read ahead, restored one after the other, written behind, and recorded when done."""

import errno
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from dpmambair.console import Problems, describe, note, printable, say
from dpmambair.files import replacing
from dpmambair.jobs import Job
from dpmambair.manifest import Manifest, describe_file
from dpmambair.memory import SpareRoom, return_freed_memory
from dpmambair.overlap import PIXELS, Steps, overlap
from dpmambair.overview import GRID_LIMIT, draw_comparison, draw_grid, draw_pair
from dpmambair.pictures import Detected, Restored, encode, restore_pictures, show, size_of, summarize
from dpmambair.search import format_of
from dpmambair.settings import Settings
from dpmambair.tars import restore_tar
from modeling_dpmambair import Picture, Restorer, read_picture
from modeling_dpmambair.large_pictures_dpmambair import Progress
from modeling_dpmambair.picture_encoding_dpmambair import PNG_LEVEL

# Beyond so many pixels each step, a tile as a rule, takes hundreds of mebibytes.
TIDIED_PIXELS = 2**25
# After these errors nothing can be written, whatever comes next.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class CannotWriteError(Exception):
    """The disk takes no more: to go on would be to compute for nothing."""


@dataclass
class Batch:
    """Restores files.

    Attributes:
        restorer: restores.
        settings: what decides how the files look.
        manifest: records what is done.
        problems: collects failures, of which none ends anything else.
        report: whether to tell what had spoiled each picture.
        together: the most pictures of one size that are restored at once.
        has_grid: whether cells of an overview are drawn.
        cells: of the overview, by the jobs' names.
        written: names of the jobs that are done.
        spare: room for the picture after one that memory was too short for.
    """

    restorer: Restorer
    settings: Settings
    manifest: Manifest
    problems: Problems
    report: bool = False
    together: int = 1
    has_grid: bool = False
    cells: dict[str, Image.Image] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    spare: SpareRoom = field(default_factory=SpareRoom)

    def run(self, jobs: Sequence[Job], is_quiet: bool) -> None:
        """Restore all files; one's failure, whatever it is, goes to `problems`.

        Args:
            jobs: what to restore.
            is_quiet: whether there is no progress bar, even in a terminal.

        Raises:
            CannotWriteError: the disk is full.
        """
        pictures, archives = [job for job in jobs if not job.is_tar], [job for job in jobs if job.is_tar]
        steps = Steps(_read, size_of, self._work, self._write, self.together)
        with tqdm(total=len(jobs), unit="picture", disable=is_quiet or None) as bar:
            with closing(overlap(pictures, steps)) as outcomes:
                for job, future in outcomes:
                    self._settle(job, future.result)
                    bar.update()
            for job in archives:
                self._settle(job, lambda job=job: self._restore_archive(job))
                bar.update()

    def _work(self, jobs: Sequence[Job], pictures: Sequence[Picture]) -> list[Restored]:
        pixels = math.prod(pictures[0].size)
        if pixels > PIXELS:
            return_freed_memory()  # which reading took; mapping it anew counts for little beside restoring
        with show_tiles(jobs[0].source.name, tidies=pixels > TIDIED_PIXELS) as progress:
            made = self._restore(pictures, progress)
        if self.has_grid or jobs[0].comparison:
            made = [replace(each, degraded=degraded) for each, degraded in zip(made, pictures, strict=True)]
        return made

    def _restore(self, pictures: Sequence[Picture], progress: Progress | None = None) -> list[Restored]:
        with self.spare:
            return restore_pictures(pictures, self.restorer, self.settings.strength, self.report, progress)

    def _write(self, job: Job, restored: Restored) -> Detected | None:
        if restored.degraded:
            self._show(job, show(restored.degraded), show(restored.picture))
        content = encode(restored.picture, format_of(job.name), self.settings)
        with replacing(job.target) as temporary:
            temporary.write_bytes(content)
            values = {"size": restored.picture.size, "seconds": round(restored.seconds, 4)}
            self._record(job, job.name, temporary, detected=restored.detected, **values)
        self.written.append(job.name)
        return restored.detected

    def _show(self, job: Job, degraded: Image.Image, restored: Image.Image) -> None:
        if job.comparison:
            with replacing(job.comparison) as temporary:
                draw_comparison(degraded, restored).save(temporary, compress_level=PNG_LEVEL)
                self._record(job, job.comparison_name, temporary)
        if self.has_grid and len(self.cells) < GRID_LIMIT:
            self.cells[job.name] = draw_pair(job.caption, degraded, restored)

    def _record(self, job: Job, name: str, temporary: Path, **values: object) -> None:
        # Before the file takes its name, so that whatever has one is proven.
        self.manifest.add(job.source, name, **describe_file(temporary), **values)

    def _restore_archive(self, job: Job) -> None:
        with replacing(job.target) as temporary:
            contents = restore_tar(job.source, temporary, self._restore, self.settings, self.together)
            failed = {name: describe(error, name) for name, error in contents.failed.items()}
            counts = {"restored": contents.restored, "copied": contents.copied, "failed": failed}
            values = {"seconds": round(contents.seconds, 4), "detected": contents.detected or None, **counts}
            self._record(job, job.name, temporary, **values)
        self.written.append(job.name)
        for name, error in contents.failed.items():
            self.problems.add(f"{job.source}/{name}", error)
        for name, detected in contents.detected.items():
            say(f"{job.source}/{name}: {summarize(detected)}")

    def _settle(self, job: Job, result: Callable[[], Any]) -> None:
        """Report what came of a job."""
        try:
            try:
                detected = result()
            except Exception as error:
                if _is_full(error):
                    raise
                self.problems.add(job.source, error)
                self.manifest.add(job.source, job.name, error=describe(error, job.source))
            else:
                if detected:
                    say(f"{job.source}: {summarize(detected)}")
        except OSError as error:
            raise CannotWriteError(describe(error, job.target)) from error

    def draw_overview(self, jobs: Sequence[Job], before: Collection[str], path: Path) -> None:
        """Draw all pictures that are restored, or as many as there is room for, into one.

        Args:
            jobs: in their order.
            before: names of those that were done before this run.
            path: file to write.
        """
        done = {*before, *self.written}
        shown = [job for job in jobs if job.name in done and not job.is_tar]
        try:
            cells = [cell for job in shown[:GRID_LIMIT] if (cell := self.cells.get(job.name) or self._read_cell(job))]
            if cells:
                with replacing(path) as temporary:
                    draw_grid(cells).save(temporary)
                    self.manifest.add(path, str(path), **describe_file(temporary))
        except Exception as error:
            self.problems.add(path, error)
        if len(shown) > GRID_LIMIT:
            note(f"{path} shows the first {GRID_LIMIT} of {len(shown)} pictures")

    def _read_cell(self, job: Job) -> Image.Image | None:
        try:
            return draw_pair(job.caption, *(show(read_picture(path)) for path in (job.source, job.target)))
        except Exception as error:
            self.problems.add(job.target, error)
            return None


def _read(job: Job) -> Picture:
    return read_picture(job.source)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def show_tiles(name: str, tidies: bool = False) -> Iterator[Progress]:
    """Give a progress callable that shows a bar below that of the pictures, if there is more than one step to show.

    Args:
        name: of the picture.
        tidies: whether freed memory is returned after each step, so that the pieces it lies in do not add up.
    """
    with ExitStack() as stack:
        bars: list[tqdm] = []

        def show(done: int, total: int) -> None:
            if total > 1 and not bars:
                bar = tqdm(total=total, desc=printable(name), unit="tile", leave=False, disable=None)
                bars.append(stack.enter_context(bar))
            for bar in bars:
                bar.update()
            if tidies:
                return_freed_memory()

        yield show
