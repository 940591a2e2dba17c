"""Train a stage of DPMambaIR: `accelerate launch train_accelerate.py --config configuration/train/RECIPE.json`.

On a CPU the number of threads is the environment's `OMP_NUM_THREADS`. SIGTERM and Ctrl-C save a checkpoint and end
with status 0; send SIGTERM to the training process or to the whole process group, because Accelerate's launcher does
not pass it on.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, LoggerType, set_seed
from tqdm.contrib.logging import logging_redirect_tqdm

from dpmambair.memory import keep_freed_memory
from training.checkpoints import has_run
from training.loop import Trainer
from training.plan import describe_plan
from training.recipe import Recipe, TrainingRecipe


def choose_precision(training: TrainingRecipe) -> str:
    """Return the recipe's precision, or what `accelerate launch` was told where it has none.

    Args:
        training: the recipe's section.

    Raises:
        ValueError: fp16 on a CPU, which torch would silently compute in float32.
    """
    precision = training.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise ValueError(
            "`training.mixed_precision` must be 'bf16' or 'no' on a CPU, got 'fp16'; "
            "give --set training.mixed_precision=bf16"
        )
    return precision


def build_accelerator(training: TrainingRecipe, output: Path) -> Accelerator:
    """Set up devices, precision, data order and trackers.

    Args:
        training: the recipe's section.
        output: the run's folder, for the trackers.

    Raises:
        ValueError: the precision does not fit the device, or a tracker is not installed.
    """
    for tracker in training.trackers:
        if LoggerType(tracker) not in get_available_trackers():
            raise ValueError(
                f"`training.trackers` must be installed, got {tracker!r}; run pip install {tracker}, "
                "or give --set training.trackers=[]"
            )
    return Accelerator(
        mixed_precision=choose_precision(training),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=training.accumulation_steps,
            sync_with_dataloader=False,  # a step goes on where an epoch ends
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=training.seed),
        step_scheduler_with_optimizer=False,  # the loop steps it, also where an update is skipped
        log_with=list(training.trackers) or None,
        project_dir=output,
    )


def train(recipe: Recipe, output: Path, *, resume: bool = False) -> bool:
    """Run a recipe.

    Args:
        recipe: what to train, on what, how.
        output: folder for checkpoints, log, validation pictures and the trained model.
        resume: continue the run that `output` holds.

    Returns:
        Whether the last step was reached; not so after a signal.

    Raises:
        FileExistsError: `output` holds a run that was not asked to be resumed.
        FileNotFoundError: a file or folder of the recipe, or the checkpoint to resume from, is missing.
        FloatingPointError: too many steps in a row had no finite loss or gradient.
        ValueError: a setting does not fit the machine or the data.
    """
    if has_run(output) and not resume:
        raise FileExistsError(
            f"`output` must be a new folder, got {str(output)!r} with a run in it; add --resume, or name another"
        )
    output.mkdir(parents=True, exist_ok=True)
    accelerator = build_accelerator(recipe.training, output)
    set_seed(recipe.training.seed)
    # What the run leaves, and what it may be resumed with, tells the precision that it had.
    training = replace(recipe.training, mixed_precision=accelerator.mixed_precision)
    trainer = Trainer(replace(recipe, training=training), output, accelerator)
    set_seed(recipe.training.seed, device_specific=True)  # after the weights, which are drawn alike everywhere
    if resume:
        trainer.resume()
    return trainer.run()


def main(
    config: Annotated[Path, typer.Option(help="Recipe, JSON; see configuration/train.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Change a setting; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest intact checkpoint.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what the run would be, and exit.")] = False,
) -> None:
    """Train the extractor, the restorer, or the head that describes, as the recipe says."""
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it tells of every file of every checkpoint
    folder = output or Path("runs", config.stem)
    try:
        recipe = Recipe.from_file(config, overrides or ())
        if plan:
            typer.echo(describe_plan(recipe, choose_precision(recipe.training), PartialState().num_processes))
            return
        with logging_redirect_tqdm():
            is_finished = train(recipe, folder, resume=resume)
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if is_finished:
        typer.echo(f"trained; the model is in {folder}")
    else:
        typer.echo(f"stopped by a signal after saving; continue with the same command and --resume (run in {folder})")


if __name__ == "__main__":
    typer.run(main)
