"""What the command does: it finds the inputs, loads the model, leaves what is done, and restores the rest."""

import errno
import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from transformers.utils import logging

from dpmambair.batch import Batch
from dpmambair.console import Problems, say
from dpmambair.files import clear_leftovers
from dpmambair.jobs import Job, Outlook, make_folders, make_jobs, sort_jobs, tell_converted
from dpmambair.manifest import Manifest, proves, read_manifests
from dpmambair.memory import keep_freed_memory
from dpmambair.pictures import share_devices
from dpmambair.request import Request
from dpmambair.search import Search
from modeling_dpmambair import Restorer


@dataclass
class Work:
    """What is to be done.

    Attributes:
        request: what was asked for.
        jobs: all files of this shard.
        outlook: what is to be done about them.
        batch: restores.
        problems: collects failures.
    """

    request: Request
    jobs: list[Job]
    outlook: Outlook
    batch: Batch
    problems: Problems

    def preview(self) -> None:
        """Say what would be done."""
        kinds = {"restore": self.outlook.todo, "done before": self.outlook.before, "skip": self.outlook.skipped}
        for word, jobs in kinds.items():
            for job in jobs:
                say(f"{word}: {job.source} -> {job.target}")
                if not os.path.exists(job.source):
                    self.problems.add(job.source, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
        self._tell("would restore", len(self.outlook.todo))

    def run(self) -> None:
        """Do it.

        Raises:
            CannotWriteError: the disk is full.
        """
        todo = make_folders(self.outlook.todo, self.problems)
        clear_leftovers({file.parent for job in self.jobs for file in job.files.values()})
        self.batch.run(todo, is_quiet=self.request.shard.index > 1)
        if self.request.grid:
            done = {job.name for job in (*self.outlook.before, *self.outlook.skipped)}
            self.batch.draw_overview(self.jobs, done, self.request.grid)

    def finish(self) -> None:
        """Say what was done."""
        self.batch.manifest.close()
        self._tell("restored", len(self.batch.written))

    def _tell(self, verb: str, number: int) -> None:
        parts = {"done before": self.outlook.before, "skipped": self.outlook.skipped}
        others = [f"{len(jobs)} {name}" for name, jobs in parts.items() if jobs]
        others += [f"shard {self.request.shard}"] if self.request.shard.count > 1 else []
        kind = "files" if any(job.is_tar for job in self.jobs) else "pictures"
        rest = f" ({', '.join(others)})" if others else ""
        say(f"{verb} {number} of {len(self.jobs)} {kind} into {self.request.output}{rest}")


def prepare(request: Request, problems: Problems) -> Work:
    """Find out what is to be done, and load the model.

    Args:
        request: what was asked for.
        problems: collects inputs that cannot be used.

    Raises:
        OSError: a folder cannot be read.
        ValueError: an output would overwrite an input, or the model does not load or lacks what was asked for.
    """
    jobs = _find_jobs(request, problems)
    restorer = _load_restorer(request)
    fingerprint = request.settings.fingerprint(request.model, str(restorer.dtype))
    outlook = _look_ahead(request, jobs, fingerprint["settings"], problems)
    manifest = Manifest(request.output, request.shard, fingerprint)
    options = {"report": request.report, "together": request.batch_size, "has_grid": bool(request.grid)}
    return Work(request, jobs, outlook, Batch(restorer, request.settings, manifest, problems, **options), problems)


def _find_jobs(request: Request, problems: Problems) -> list[Job]:
    search = Search(request.output, problems)
    for given in request.inputs:
        search.add(given)
    search.tell_left_out()
    # Named before they are shared out, so that every process gives the same names.
    jobs = make_jobs(search.found, request.output, request.settings, request.compare, request.grid)
    jobs = [job for job in jobs if request.shard.has(job.name)]
    if not request.settings.format:
        tell_converted(jobs)
    return jobs


def _load_restorer(request: Request) -> Restorer:
    keep_freed_memory(returns_large=True)
    logging.disable_progress_bar()
    device = share_devices(request.device, os.environ.get("LOCAL_RANK"))
    with _without_collector():
        restorer = Restorer.from_pretrained(request.model, device, request.dtype, int(request.memory * 2**30))
    if request.report and not restorer.model.config.has_description:
        rule = f"left out for a model that cannot describe, got it with {request.model}"
        raise ValueError(f"`--report` must be {rule}; choose another --model")
    return request.settings.control(restorer)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Load what stays until the end without searching it for garbage, now or then, which takes long."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _look_ahead(request: Request, jobs: Sequence[Job], settings: str, problems: Problems) -> Outlook:
    records = read_manifests(request.output)

    def is_own(job: Job, name: str) -> bool:
        return any(proves(record, job.source, job.files[name], settings) for record in records.get(name, ()))

    outlook = sort_jobs(jobs, is_own, request.overwrite, request.skip_existing, problems)
    if request.report:
        told = {name for name, found in records.items() if any(record.get("detected") for record in found)}
        outlook.todo += [job for job in outlook.before if job.name not in told]
        outlook.before = [job for job in outlook.before if job.name in told]
    return outlook
