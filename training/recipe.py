"""Training recipes: JSON in, typed and validated settings out; a misspelt key or a wrong value is an error."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dataset_scripts import CORPORA, KINDS
from training.recipe_files import read_recipe_file
from training.rules import (
    AT_LEAST_ZERO,
    BATCH,
    BETAS,
    BOOLEAN,
    FRACTION,
    KIND_WEIGHTS,
    OBJECT,
    PATH,
    PATH_OR_NULL,
    PATHS,
    POSITIVE,
    POSITIVE_INTEGER,
    POSITIVE_INTEGER_OR_NULL,
    PROBABILITY,
    SCALES,
    SCHEDULE,
    SEVERITY,
    SPACING,
    WEIGHTS,
    WHOLE_NUMBER,
    Rule,
    one_of,
    some_of,
)

TRAINING_CORPORA = tuple(
    name for name, corpus in CORPORA.items() if corpus.task != "clean" and "train" in corpus.splits
)
TRACKERS = ("tensorboard", "wandb", "trackio")


def _setting(default: object, rule: Rule, *, resumable: bool = False, local: bool = False) -> Any:
    """Declare a field: its default, its rule, whether a resumed run may change it, whether it names a local file."""
    metadata = {"rule": rule, "resumable": resumable or local, "local": local}
    return field(default_factory=lambda: default, metadata=metadata)


@dataclass(frozen=True)
class ModelRecipe:
    """What is trained.

    Attributes:
        stage: "extractor" (pre-training with the reconstruction unit), "restorer", or "describe" (the head that names
            degradations).
        config: JSON file of a `DPMambaIRConfig`; the extractor stage takes its `extractor_config`, the describe stage
            the trained extractor's own. Not read with `init_from`.
        overrides: fields of that configuration to change, e.g. {"prompts": ["B", "C"]}.
        init_from: folder of a trained model of this stage to start from (fine-tuning), in place of random weights.
            `overrides` may add to it, as by larger depths; what they add starts as in a new model.
        extractor: folder of the trained extractor, or of a restorer that has one; needed by restorer and describe
            unless `init_from` brings one.
        lpips_backbone: safetensors file of the LPIPS backbone; null takes torch's hub cache. Extractor only.
        lpips_network: the backbone: "squeeze", "alex" or "vgg". Extractor only.
    """

    stage: str = _setting("restorer", one_of("extractor", "restorer", "describe"))
    config: str = _setting("configuration/model/tiny.json", PATH)
    overrides: dict[str, Any] = _setting({}, OBJECT)
    init_from: str | None = _setting(None, PATH_OR_NULL, local=True)
    extractor: str | None = _setting(None, PATH_OR_NULL, local=True)
    lpips_backbone: str | None = _setting(None, PATH_OR_NULL, local=True)
    lpips_network: str = _setting("squeeze", one_of("squeeze", "alex", "vgg"))


@dataclass(frozen=True)
class DataRecipe:
    """What it is trained on: clean photographs, degraded on the fly, and corpora of real pairs.

    Attributes:
        clean_dirs: folders of clean photographs.
        severity: range of the severities, drawn uniformly, in [0, 1].
        composite_probability: share of the patches that get several kinds at once.
        kinds: the degradations.
        kind_weights: how often a kind is drawn against the others, 1 where none is given.
        identity_probability: share of the patches that no kind degrades, so that nothing is to be changed.
        grey_probability: share of the patches that are grey, clean and degraded.
        file_jpeg_probability: share of the patches that are saved as a JPEG of quality 70 to 100 at last, where they
            do not suffer the kind jpeg.
        varied_weather: whether haze, rain and snow look more varied than in the benchmarks.
        varied_blur: whether blur does: half of it each longer, unsteady, exposed in linear light, and uneven.
        varied_light: whether half of low light does: of more contrast, of less red and blue, half of it with lamps.
        scales: range of the factor by which a clean photograph is shrunk before it is degraded, within (0, 1], so that
            patches show whole scenes too.
        corpora: published corpora of pairs (`dataset_scripts.CORPORA`), or "paired_folders" for pairs of one's own.
        corpora_dir: folder that holds a folder of each corpus' name.
        paired_task: what the pairs of "paired_folders" suffer, one of the kinds.
        weights: shares of the sets in a batch: "balanced", "natural" for their sizes, or a number for each of
            `corpora` and for "synthetic", the clean photographs.
        held_out_every: every n-th picture of each set is kept for validation.
        validation_pictures: how many of the kept pictures are looked at, of each set and kind.
        validation_patch: side of the validated patches, pixels.
        unreadable: what happens when a picture cannot be read: "stop" the run, or "replace" it by the next one.
    """

    clean_dirs: tuple[str, ...] = _setting((), PATHS, local=True)
    severity: tuple[float, float] = _setting((0.05, 0.9), SEVERITY)
    composite_probability: float = _setting(0.15, PROBABILITY)
    kinds: tuple[str, ...] = _setting(KINDS, some_of("kinds", KINDS, at_least=1))
    kind_weights: dict[str, float] = _setting({}, KIND_WEIGHTS)
    identity_probability: float = _setting(0.0, PROBABILITY)
    grey_probability: float = _setting(0.0, PROBABILITY)
    file_jpeg_probability: float = _setting(0.0, PROBABILITY)
    varied_weather: bool = _setting(False, BOOLEAN)
    varied_blur: bool = _setting(False, BOOLEAN)
    varied_light: bool = _setting(False, BOOLEAN)
    scales: tuple[float, float] = _setting((1.0, 1.0), SCALES)
    corpora: tuple[str, ...] = _setting((), some_of("corpora", TRAINING_CORPORA))
    corpora_dir: str | None = _setting(None, PATH_OR_NULL, local=True)
    paired_task: str | None = _setting(None, one_of(*KINDS, None))
    weights: str | dict[str, float] = _setting("balanced", WEIGHTS)
    held_out_every: int = _setting(20, SPACING)
    validation_pictures: int = _setting(4, POSITIVE_INTEGER, resumable=True)
    validation_patch: int = _setting(128, POSITIVE_INTEGER, resumable=True)
    unreadable: str = _setting("stop", one_of("stop", "replace"), resumable=True)


@dataclass(frozen=True)
class TrainingRecipe:
    """How it is trained. The defaults are the paper's for the restorer (arXiv:2504.17732) where it names them.

    Attributes:
        steps: optimiser steps.
        batch_size: patches per process and forward pass; or pairs (step, patches): from this step on so many.
        accumulation_steps: forward passes per step, whose gradients are averaged.
        patch_schedule: pairs (step, side in pixels): from this step on patches have this side.
        patch_cycle: after how many steps the schedule begins again, such as 225 for 25 steps of large patches, which
            show nearly whole pictures, after every 200 of small ones; null: it runs once.
        lr: highest learning rate.
        final_lr: learning rate of the last step.
        warmup_steps: steps of linear warm-up.
        decay_steps: how many of the last steps the rate takes from `lr`, constant until then, down to `final_lr`; null
            for a cosine that begins after the warm-up.
        optimizer: "adamw"; or "muon" for the hidden layers' matrices and kernels, with AdamW for all else.
        betas: AdamW's.
        weight_decay: on matrices and kernels only.
        max_grad_norm: where the gradient of a part of the model (extractor, head, network) is longer than this, it is
            shortened to it.
        mixed_precision: "bf16", "fp16" (not on a CPU), "no", or null for what `accelerate launch` was told.
        compile: whether the model runs through `torch.compile`.
        activation_checkpointing: whether blocks recompute their activations in the backward pass, to save memory.
        ema_decay: final decay per step of the averaged weights, which are the ones validated and saved.
        seed: of the weights, the order of the pictures and the degradations.
        workers: data processes per training process.
        log_every: steps between log records.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest checkpoints stay.
        validate_every: steps between validations; the best one's weights stay in the folder `best`.
        trackers: where the log also goes: "tensorboard", "wandb", "trackio".
    """

    steps: int = _setting(300_000, POSITIVE_INTEGER, resumable=True)
    batch_size: int | tuple[tuple[int, int], ...] = _setting(1, BATCH)
    accumulation_steps: int = _setting(1, POSITIVE_INTEGER)
    patch_schedule: tuple[tuple[int, int], ...] = _setting(((0, 192),), SCHEDULE)
    patch_cycle: int | None = _setting(None, POSITIVE_INTEGER_OR_NULL)
    lr: float = _setting(3e-4, POSITIVE)
    final_lr: float = _setting(1e-6, AT_LEAST_ZERO)
    warmup_steps: int = _setting(0, WHOLE_NUMBER)
    decay_steps: int | None = _setting(None, POSITIVE_INTEGER_OR_NULL, resumable=True)
    optimizer: str = _setting("adamw", one_of("adamw", "muon"))
    betas: tuple[float, float] = _setting((0.9, 0.999), BETAS)
    weight_decay: float = _setting(1e-4, AT_LEAST_ZERO)
    max_grad_norm: float = _setting(1.0, POSITIVE)
    mixed_precision: str | None = _setting("bf16", one_of("bf16", "fp16", "no", None))
    compile: bool = _setting(False, BOOLEAN, resumable=True)
    activation_checkpointing: bool = _setting(False, BOOLEAN, resumable=True)
    ema_decay: float = _setting(0.999, FRACTION)
    seed: int = _setting(0, WHOLE_NUMBER)
    workers: int = _setting(2, WHOLE_NUMBER, resumable=True)
    log_every: int = _setting(50, POSITIVE_INTEGER)
    checkpoint_every: int = _setting(1000, POSITIVE_INTEGER, resumable=True)
    keep_checkpoints: int = _setting(2, POSITIVE_INTEGER, resumable=True)
    validate_every: int = _setting(1000, POSITIVE_INTEGER, resumable=True)
    trackers: tuple[str, ...] = _setting(("tensorboard",), some_of("trackers", TRACKERS), resumable=True)

    def batch_phases(self) -> list[tuple[int, int, int]]:
        """List the stretches of one batch size: (patches per process and forward pass, first step, step after)."""
        schedule = ((0, self.batch_size),) if isinstance(self.batch_size, int) else self.batch_size
        return self._list_phases(schedule)

    def patch_phases(self) -> list[tuple[int, int, int]]:
        """List the stretches of one patch size: (side in pixels, first step, step after)."""
        rounds = range(0, self.steps, self.patch_cycle or self.steps)
        return self._list_phases((first + step, side) for first in rounds for step, side in self.patch_schedule)

    def _list_phases(self, schedule: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
        begun = [(step, value) for step, value in schedule if step < self.steps]
        return [(value, step, end) for (step, value), (end, _) in pairwise([*begun, (self.steps, 0)])]

    def phases(self) -> list[tuple[int, int, int, int]]:
        """List the stretches of one batch and patch size: (patches, side in pixels, first step, step after)."""
        return [
            (patches, side, max(first, start), min(last, end))
            for patches, first, last in self.batch_phases()
            for side, start, end in self.patch_phases()
            if max(first, start) < min(last, end)
        ]

    def count_patches(self, start: int, end: int) -> int:
        """Count the patches of a process from step `start` up to, not including, step `end`."""
        counts = [(patches, min(end, last) - max(start, first)) for patches, first, last in self.batch_phases()]
        return self.accumulation_steps * sum(patches * max(steps, 0) for patches, steps in counts)


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        model: what is trained.
        data: what it is trained on.
        training: how it is trained.

    Raises:
        ValueError: a setting breaks its rule, or two contradict each other.
    """

    model: ModelRecipe
    data: DataRecipe
    training: TrainingRecipe

    def __post_init__(self) -> None:
        """Check every setting by its rule, then the pairs that depend on each other."""
        for section in fields(self):
            _check_section(section.name, getattr(self, section.name))
        training = self.training
        if training.final_lr > training.lr:
            raise ValueError(
                f"`training.final_lr` must be at most `training.lr` {training.lr}, got {training.final_lr}; lower it"
            )
        if training.warmup_steps >= training.steps:
            raise ValueError(
                f"`training.warmup_steps` must be below `training.steps` {training.steps}, "
                f"got {training.warmup_steps}; shorten the warm-up"
            )
        if training.patch_cycle is not None and training.patch_cycle <= training.patch_schedule[-1][0]:
            raise ValueError(
                f"`training.patch_cycle` must be above the last step of `training.patch_schedule` "
                f"{training.patch_schedule[-1][0]}, got {training.patch_cycle}; lengthen the cycle"
            )
        unwarmed = training.steps - training.warmup_steps
        if training.decay_steps is not None and training.decay_steps > unwarmed:
            raise ValueError(
                f"`training.decay_steps` must be at most the {unwarmed} steps after the warm-up, "
                f"got {training.decay_steps}; shorten the decay, or give null for a cosine"
            )
        if self.model.stage == "describe" and self.data.corpora:
            raise ValueError(
                f"`data.corpora` must be empty in the stage 'describe', got {self.data.corpora!r}; "
                "real pairs do not tell their severity: give data.clean_dirs"
            )

    @classmethod
    def from_file(cls, path: Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe.

        Args:
            path: JSON file with the sections `model`, `data` and `training`, and perhaps the name of a recipe that it
                `extends`; missing settings take that recipe's values, or their defaults.
            overrides: "section.name=VALUE" each; VALUE is JSON or plain text, a list of paths "A,B".

        Raises:
            ValueError: no JSON, a circle of `extends`, an unknown key, a broken rule.
            FileNotFoundError: no such file.
        """
        return cls.from_dict(read_recipe_file(path, overrides))

    @classmethod
    def from_dict(cls, content: dict[str, dict[str, Any]]) -> "Recipe":
        """Build a recipe from nested dictionaries, as JSON gives them.

        Args:
            content: section name to setting name to value.

        Raises:
            ValueError: an unknown key, a broken rule.
        """
        sections = {section.name: section.type for section in fields(cls)}
        _refuse_unknown("", content, sections)
        return cls(**{name: _build_section(name, kind, content.get(name, {})) for name, kind in sections.items()})

    def to_dict(self, *, portable: bool = False) -> dict[str, dict[str, Any]]:
        """Give the recipe as nested dictionaries, ready for JSON.

        Args:
            portable: leave out the paths of this machine (photographs, extractor, backbone).
        """
        sections = {section.name: getattr(self, section.name) for section in fields(self)}
        return {name: asdict(_clear_local(settings) if portable else settings) for name, settings in sections.items()}

    def check_resumes(self, earlier: "Recipe") -> None:
        """Refuse to continue a run with other settings than it began with.

        The length, the last decay, places of files, workers and reporting may change. A changed length stretches the
        cosine; with `decay_steps` it leaves the rate as it was until the decay.

        Args:
            earlier: the recipe of the interrupted run.

        Raises:
            ValueError: a setting that shapes the weights differs.
        """
        for section in fields(self):
            now, before = getattr(self, section.name), getattr(earlier, section.name)
            for item in fields(now):
                got, expected = getattr(now, item.name), getattr(before, item.name)
                if got != expected and not item.metadata["resumable"]:
                    raise ValueError(
                        f"`{section.name}.{item.name}` must stay {expected!r} with --resume, got {got!r}; "
                        "restore it, or start a new run in another --output"
                    )


def _check_section(section: str, settings: Any) -> None:
    for item in fields(settings):
        value, rule = getattr(settings, item.name), item.metadata["rule"]
        if not rule.holds(value):
            name = f"{section}.{item.name}"
            raise ValueError(
                f"`{name}` must be {rule.text}, got {value!r}; correct the recipe or give --set {name}=VALUE"
            )


def _build_section(name: str, kind: Any, content: object) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"`{name}` must be an object of settings, got {content!r}; write {{...}} in the recipe")
    _refuse_unknown(f"{name}.", content, {item.name for item in fields(kind)})
    return kind(**{key: _freeze(value) for key, value in content.items()})


def _refuse_unknown(prefix: str, given: Any, known: Any) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(
            f"`{prefix}{unknown[0]}` must be one of the recipe's keys {', '.join(sorted(known))}, "
            f"got {unknown[0]!r}; correct its spelling"
        )


def _freeze(value: object) -> object:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _clear_local(settings: Any) -> Any:
    return replace(
        settings, **{item.name: item.default_factory() for item in fields(settings) if item.metadata["local"]}
    )
