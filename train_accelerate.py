"""Train either stage of DPMambaIR: `accelerate launch train_accelerate.py --config configuration/train/RECIPE.json`.

On a CPU the number of threads is the environment's `OMP_NUM_THREADS`. SIGTERM saves a checkpoint and ends with status
0; send it to the training process or to the whole process group, because Accelerate's launcher does not pass it on.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import is_tensorboard_available, set_seed
from tqdm.contrib.logging import logging_redirect_tqdm

from training.loop import Trainer, has_run
from training.memory import keep_freed_memory
from training.recipe import Recipe, TrainingRecipe


def build_accelerator(training: TrainingRecipe, output: Path) -> Accelerator:
    """Set up devices, precision, data order and trackers.

    Args:
        training: the recipe's section.
        output: the run's folder, for the trackers.

    Raises:
        ValueError: fp16 on a CPU, which torch would silently compute in float32.
    """
    if training.mixed_precision == "fp16" and PartialState().device.type == "cpu":
        raise ValueError(
            "`training.mixed_precision` must be 'bf16' or 'no' on a CPU, got 'fp16'; "
            "give --set training.mixed_precision=bf16"
        )
    return Accelerator(
        mixed_precision=training.mixed_precision,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=training.seed),
        step_scheduler_with_optimizer=False,  # the loop steps it, also where an update is skipped
        log_with="tensorboard" if is_tensorboard_available() else None,
        project_dir=output,
    )


def train(recipe: Recipe, output: Path, *, resume: bool = False) -> bool:
    """Run a recipe.

    Args:
        recipe: what to train, on what, how.
        output: folder for checkpoints, log, validation pictures and the trained model.
        resume: continue the run that `output` holds.

    Returns:
        Whether the last step was reached; not so after SIGTERM.

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
    trainer = Trainer(recipe, output, accelerator)
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
) -> None:
    """Train the extractor or the restorer, as the recipe says."""
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it tells of every file of every checkpoint
    folder = output or Path("runs", config.stem)
    try:
        with logging_redirect_tqdm():
            is_finished = train(Recipe.from_file(config, overrides or ()), folder, resume=resume)
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if is_finished:
        typer.echo(f"trained; the model is in {folder}")
    else:
        typer.echo(f"stopped by SIGTERM after saving; continue with the same command and --resume (run in {folder})")


if __name__ == "__main__":
    typer.run(main)
