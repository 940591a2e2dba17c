"""Restore degraded photographs from the command line: files, folders and tar archives in, restored ones out.

`dpmambair-restore INPUT... -o OUT`, or `python -m dpmambair.restore`, takes any mixture of files and folders. A folder
is searched in depth, also through links (hidden names are left out), and its structure is kept below `OUT`. What is
done is recorded in `OUT/manifest.jsonl`, so that the same command goes on where a run was interrupted.

Exit status: 0 when everything was restored, 1 when any input failed (one line each on stderr, the others are still
restored; 0 too under a launcher, which would stop all processes), 2 when work could not begin, 130 when it was
interrupted.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dpmambair import __version__
from dpmambair.console import Problems, complain, describe, say, without_warnings
from dpmambair.request import MEMORY, Request
from dpmambair.settings import Settings, split_kinds
from dpmambair.shard import choose_shard
from dpmambair.shipped import SHIPPED

if TYPE_CHECKING:
    from dpmambair.work import Work

GO_ON = "what is done is kept; run the same command again to go on"

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@contextmanager
def stopping_once() -> Iterator[None]:
    """Take a request to terminate, as schedulers send it, for Ctrl-C; launchers send one after the other."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt

    try:
        for number in former:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def carry_out(work: "Work") -> int:
    """Do the work, say what was done, and return the exit status."""
    from dpmambair.batch import CannotWriteError

    stopped, status = None, 1
    try:
        work.run()
    except CannotWriteError as error:
        stopped = f"stopped: {error}"
    except KeyboardInterrupt:
        stopped, status = "interrupted", 130
    work.finish()
    if stopped:
        complain(f"{stopped}; {GO_ON}")
        return status
    # A launcher would stop the processes that are still at work.
    return 1 if work.problems.count and not work.request.shard.is_launched else 0


def show_version(is_asked: bool) -> None:
    """Print the version and end, if that was asked for."""
    if is_asked:
        say(f"dpmambair {__version__}")
        raise typer.Exit


@main.command()
def restore(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Pictures, folders of them, tar archives.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the restored pictures.")],
    format: Annotated[
        Literal["png", "jpeg", "webp", "tiff", "avif"] | None,
        typer.Option(help="Format to write.", show_default="that of each picture"),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(metavar="1..100", help="Of JPEG, WebP and AVIF.", show_default="the best")
    ] = None,
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Drop EXIF (with the place), XMP and text.")
    ] = False,
    strength: Annotated[
        float, typer.Option(help="Factor on the correction: 0 does nothing, more than 1 exaggerates.")
    ] = 1.0,
    only: Annotated[
        str | None,
        typer.Option(metavar="KINDS", help="Repair these kinds alone, as haze,noise.", show_default="all"),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="KINDS", help="Repair all but these kinds.", show_default="none")
    ] = None,
    self_ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="Average over eight flips and turns; takes eight times as long.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Also tell what had spoiled each picture.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave files that exist, whatever made them.")
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Also write degraded and restored side by side.")] = False,
    grid: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw one overview of up to 48.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Restore one of N parts.", show_default="from RANK and WORLD_SIZE, or all"),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Restore up to N pictures of one size at once.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    model: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of a trained model.", show_default="the shipped one")
    ] = SHIPPED,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 where the device is faster in it.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    memory: Annotated[
        float, typer.Option(metavar="GIB", help="Restore pictures in tiles that would take more memory than this.")
    ] = MEMORY,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Restore degraded photographs: haze, rain, snow, low light, blur, JPEG artefacts, noise.

    The same command goes on where a run was interrupted. Exit status 0: all restored; 1: some inputs failed, each with
    a line on stderr; 2: work could not begin; 130: interrupted.
    """
    problems = Problems()
    with stopping_once(), without_warnings():
        try:
            request = Request(
                inputs=inputs,
                output=output,
                settings=Settings(
                    strength, format, quality, not strip_metadata, split_kinds(only), split_kinds(keep), self_ensemble
                ),
                report=report,
                overwrite=overwrite,
                skip_existing=skip_existing,
                compare=compare,
                grid=grid,
                shard=choose_shard(shard, os.environ),
                batch_size=batch_size,
                model=model,
                dtype=dtype,
                device=device,
                memory=memory,
            )
            if not dry_run:
                request.check_files()
            # Here, because torch comes with it, which help can do without.
            from dpmambair.work import prepare

            work = prepare(request, problems)
        except (OSError, ValueError) as error:
            complain(f"error: {describe(error, output)}")
            raise typer.Exit(2) from error
        if dry_run:
            work.preview()
            raise typer.Exit(1 if problems.count else 0)
        raise typer.Exit(carry_out(work))


if __name__ == "__main__":
    main()
