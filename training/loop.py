"""The one training loop: all stages run it, since the models own their losses."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from safetensors.torch import load_model, save_model
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from dpmambair.files import replacing
from dpmambair.memory import peak_memory
from training.checkpoints import (
    begin_checkpoint,
    find_checkpoint,
    finish_checkpoint,
    list_checkpoints,
    publish,
    removed_on_failure,
    unfinished_checkpoint,
)
from training.journal import Journal
from training.optimization import (
    average_weights,
    build_optimizer,
    build_schedule,
    clip_parts,
    find_trained_parts,
    gather_parameters,
    restore_rate,
)
from training.pictures import STOPPING, ReadablePatches, build_loader, check_batches, load_sets, training_steps
from training.progress import Progress
from training.recipe import Recipe
from training.scores import Batch, Scores
from training.stages import build_stage, save_trained
from training.validation import Validation

AVERAGED_WEIGHTS = "averaged.safetensors"
MOST_SKIPPED_IN_A_ROW = 20

logger = get_logger(__name__)


class Trainer:
    """One run: everything that a step touches.

    Args:
        recipe: its settings.
        output: its folder.
        accelerator: devices, precision, processes.

    Raises:
        FileNotFoundError: photographs, extractor or backbone are missing.
        ValueError: a setting does not fit what is there.
    """

    def __init__(self, recipe: Recipe, output: Path, accelerator: Accelerator):
        training = recipe.training
        self.recipe, self.output, self.accelerator = recipe, output, accelerator
        sets = load_sets(recipe.data)
        check_batches(sets, training, accelerator.num_processes)
        self.patches = ReadablePatches(sets.kept, recipe)
        self.stage = stage = build_stage(recipe.model)
        self.validation = Validation(sets.held_out, recipe, stage)
        if training.activation_checkpointing:
            stage.model.activation_checkpointing_enable()
        if training.compile:
            stage.model.compile()
        # Copied before the model may be sharded: the average is whole in every process.
        self.averaged = average_weights(stage.model, training.ema_decay).to(accelerator.device)
        optimizer = build_optimizer(stage.model, training)
        schedule = build_schedule(optimizer, training)
        self.model, self.optimizer, self.schedule = accelerator.prepare(stage.model, optimizer, schedule)
        self.parts = find_trained_parts(accelerator.unwrap_model(self.model))
        self.progress = Progress()
        self.journal = Journal(output / "log.jsonl")
        self.lr = training.lr
        self.was_told_to_stop = self.is_stopping = False  # the second once all processes know of the first

    def resume(self) -> None:
        """Load the newest intact checkpoint of the run's folder; a run that ended before its first begins anew.

        Raises:
            FileNotFoundError: there is no run, or no checkpoint that is intact.
            ValueError: the recipe differs from the interrupted run's.
        """
        if self.journal.path.exists() and not list_checkpoints(self.output):
            logger.info("no checkpoint was written before; beginning anew")
            if self.accelerator.is_main_process:
                self.journal.cut(0)
            return
        folder, state = find_checkpoint(self.output)
        self.recipe.check_resumes(Recipe.from_dict(state["recipe"]))
        self.accelerator.load_state(folder)
        restore_rate(self.schedule.scheduler)
        load_model(self.averaged, folder / AVERAGED_WEIGHTS)
        self.progress = Progress(**state["progress"])
        if self.accelerator.is_main_process:
            self.journal.cut(self.progress.step)
        logger.info("resuming after step %d", self.progress.step)

    def run(self) -> bool:
        """Train to the last step, or until SIGTERM or SIGINT (Ctrl-C); the second SIGINT ends at once.

        Returns:
            Whether the last step was reached; the trained model then lies in the run's folder.
        """
        self.accelerator.init_trackers("training", init_kwargs={"tensorboard": {"purge_step": self.progress.step}})
        self.model.train()
        with self._stop_on_signals(), self._progress_bar() as bar:
            started = time.monotonic() - self.progress.seconds
            last_record = self.progress.step, self.progress.seconds
            open_loader = partial(build_loader, self.patches, self.recipe.training.workers, self.accelerator.device)
            for batches in training_steps(open_loader, self.recipe, self.progress.step):
                self._step(batches)
                self.progress.seconds = time.monotonic() - started
                bar.update()
                if self._is_due(self.recipe.training.log_every):
                    self._log(bar, *last_record, patch_size=batches[0]["pixel_values"].shape[-1])
                    last_record = self.progress.step, self.progress.seconds
                if self._is_due(self.recipe.training.validate_every):
                    self._validate()
                if self.is_stopping or self._is_due(self.recipe.training.checkpoint_every):
                    self._save_checkpoint()
                if self.is_stopping:
                    break
        self.accelerator.end_training()
        is_finished = self.progress.step == self.recipe.training.steps
        if is_finished:
            self._save_result()
        return is_finished

    def _step(self, batches: list[Batch]) -> None:
        loss = torch.stack([self._accumulate(batch) for batch in batches]).mean()
        self.accelerator.unscale_gradients()
        grad_norm = clip_parts(self.parts, self.recipe.training.max_grad_norm)
        # One transfer and one reduction per step, which also let all processes stop and skip at the same step.
        told = torch.stack([loss, grad_norm, loss.new_tensor(float(self.was_told_to_stop))]).float()
        mean_loss, grad_norm, stopping = self.accelerator.reduce(told, "mean").tolist()
        self.is_stopping = stopping > 0
        is_finite = self.progress.count(mean_loss, grad_norm)
        if is_finite or self.accelerator.scaler is not None:  # fp16's scaler skips by itself, and learns from it
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        self.averaged.update_parameters(gather_parameters(self.accelerator.unwrap_model(self.model)))
        if self.progress.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            self._give_up(batches)

    def _accumulate(self, batch: Batch) -> Tensor:
        with self.accelerator.accumulate(self.model):
            loss = self.model(**self.stage.inputs(batch)).loss
            self.accelerator.backward(loss)
        return loss.detach()

    def _is_due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.recipe.training.steps

    def _log(self, bar: tqdm, last_step: int, last_seconds: float, *, patch_size: int) -> None:
        progress, training = self.progress, self.recipe.training
        samples = training.count_patches(last_step, progress.step) * self.accelerator.num_processes
        record = {
            "step": progress.step,
            "loss": progress.take_mean_loss(),
            "lr": self.lr,
            "grad_norm": progress.grad_norm,
            "skipped": progress.skipped,
            "patch_size": patch_size,
            "seconds": round(progress.seconds, 3),
            "samples_per_second": round(samples / max(progress.seconds - last_seconds, 1e-9), 3),
            "memory_gb": round(peak_memory(self.accelerator.device) / 1e9, 3),
        }
        bar.set_postfix(loss=record["loss"], lr=record["lr"])
        self._record(record)

    def _record(self, record: dict[str, object]) -> None:
        if self.accelerator.is_main_process:
            self.journal.write(record)
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"}
        self.accelerator.log(numbers, step=self.progress.step)

    def _validate(self) -> None:
        if self.accelerator.is_main_process:
            picture = self.output / "validation" / f"{self.progress.step}.png"
            scores = self.validation.run(self.averaged.module, self.accelerator, picture)
            numbers = {name: round(value, 5) for name, value in scores.numbers.items()}
            self._record({"step": self.progress.step, "validation_loss": scores.loss, **numbers})
            logger.info("step %d: validation loss %.5f, %s", self.progress.step, scores.loss, numbers)
            if scores.pictures:
                self._show(scores)
            if self.progress.is_best(scores.quality):
                self._save_best(scores)
        self.accelerator.wait_for_everyone()

    def _show(self, scores: Scores) -> None:
        grid = make_grid(scores.pictures, nrow=3).permute(1, 2, 0).numpy()[None]
        for tracker in self.accelerator.trackers:
            if not hasattr(tracker, "log_images"):  # Accelerate's trackio takes numbers only
                continue
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"source, reconstruction, target": grid}, step=self.progress.step, **layout)

    def _save_best(self, scores: Scores) -> None:
        unfinished = self.output / "best.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        save_trained(self.averaged.module, unfinished)
        record = {"step": self.progress.step, "quality": scores.quality, **scores.numbers}
        (unfinished / "best.json").write_text(json.dumps(record, indent=2) + "\n")
        publish(unfinished, self.output / "best")

    def _save_checkpoint(self) -> None:
        folder = unfinished_checkpoint(self.output, self.progress.step)
        with removed_on_failure(folder):
            if self.accelerator.is_main_process:
                begin_checkpoint(self.output, self.progress.step)
                save_model(self.averaged, str(folder / AVERAGED_WEIGHTS))
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(folder))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                state = {"progress": asdict(self.progress), "recipe": self.recipe.to_dict(portable=True)}
                finish_checkpoint(folder, state, self.recipe.training.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _save_result(self) -> None:
        if not self.accelerator.is_main_process:
            return
        unfinished = self.output / "trained.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        save_trained(self.averaged.module, unfinished)
        (unfinished / "recipe.json").write_text(json.dumps(self.recipe.to_dict(portable=True), indent=2) + "\n")
        publish(unfinished, self.output)
        self.journal.plot(self.output / "loss.png")

    def _give_up(self, batches: list[Batch]) -> None:
        records = self.output / "not_finite.json"
        if self.accelerator.is_main_process:
            replay = [record for batch in batches for record in batch["record"]]
            with replacing(records) as unfinished:
                unfinished.write_text(json.dumps({"step": self.progress.step, "records": replay}, indent=2))
        raise FloatingPointError(
            f"loss and gradient must be finite, got {MOST_SKIPPED_IN_A_ROW} steps in a row that are not, "
            f"the last one {self.progress.step}; lower training.lr, or replay the degradations in {str(records)!r}"
        )

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=self.recipe.training.steps,
            initial=self.progress.step,
            unit="step",
            dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        )

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        def stop(number: int, _: object) -> None:
            if number == signal.SIGINT and self.was_told_to_stop:
                raise KeyboardInterrupt
            self.was_told_to_stop = True

        before = {number: signal.signal(number, stop) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
