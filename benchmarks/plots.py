"""Draw what committed files tell: `python -m benchmarks.plots speed`, `python -m benchmarks.plots training MODEL RUN`.

Nothing is measured. `speed` sets the gain of the networks of `benchmarks.learning` beside the time that they take for
a picture; `changes` shows what single changes add; `training` follows the validation of a model's runs over the hours
that they took.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from matplotlib import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.files import RESULTS
from benchmarks.learning_table import REFERENCE, Runs, group_changes, group_runs, name_budget, subtract
from dataset_scripts.__main__ import save_figure
from training.journal import Journal

DPI = 120
# Told apart by the colour-blind too (Okabe and Ito).
BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STROKES, MARKERS = ("-", "--", ":", "-."), (".", "x")
STYLES = {
    True: {"color": BLUE, "marker": "o", "label": "of this family"},
    False: {"color": ORANGE, "marker": "s", "label": "others"},
}
MAPPED_DB = 2.0  # the strongest colours of a map
LABEL_STEP = 0.055  # of a panel's height, between two names beside it


def draw_speed(results: dict[str, Any]) -> Figure:
    """Draw gain over time for a megapixel, a panel for each training budget, the networks that none surpasses linked.

    Args:
        results: what `benchmarks.learning` wrote.
    """
    budgets: dict[str, dict[str, Runs]] = {}
    for (budget, name), runs in group_runs(results).items():
        budgets.setdefault(budget, {})[name] = runs
    figure = Figure(figsize=(6.5 * len(budgets), 4), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(budgets), squeeze=False)[0]
    for axes, (budget, networks) in zip(panels, budgets.items(), strict=True):
        _draw_budget(axes, networks)
        axes.set(xlabel="restoring, seconds per megapixel (one thread)", ylabel="mean gain over seven kinds (dB)")
        axes.set_title(f"trained for {budget}")
        axes.legend(fontsize="small")
    return figure


def _draw_budget(axes: Axes, networks: dict[str, Runs]) -> None:
    places: dict[str, tuple[float, float]] = {}
    for name, runs in networks.items():
        gains = [one["mean"] for one in runs]
        places[name] = seconds, gain = fmean(one["megapixel_seconds"] for one in runs), fmean(gains)
        is_ours = "config" in runs[0]["definition"]["network"]
        reach = [[gain - min(gains)], [max(gains) - gain]]
        axes.errorbar(seconds, gain, reach, capsize=3, **STYLES[is_ours] | {"label": None})
    for style in STYLES.values():  # in the legend once
        axes.plot([], [], linestyle="", **style)
    front = find_front(list(places.values()))
    axes.plot(*zip(*front, strict=True), ":", color="grey", zorder=0, label="none is faster and better")
    axes.set_xscale("log", base=2, subs=[1.5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    _name_beside(axes, places)
    axes.grid(visible=True, which="both", alpha=0.3)


def find_front(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the places that no other surpasses in both, by rising cost.

    Args:
        places: cost and gain of each.
    """
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(places, key=lambda place: (place[0], -place[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def _name_beside(axes: Axes, places: dict[str, tuple[float, float]]) -> None:
    """Write the names to the right of a panel, as high as their places as far as they do not touch, tied by lines."""
    axes.margins(0.08)
    lowest, highest = axes.get_ylim()
    height = 1.0 + LABEL_STEP
    # From the highest gain down; where names are many, the last may hang below the panel.
    for name, place in sorted(places.items(), key=lambda item: -item[1][1]):
        height = min(height - LABEL_STEP, (place[1] - lowest) / (highest - lowest))
        axes.annotate(
            name,
            place,
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "grey", "alpha": 0.5, "shrinkB": 5},
        )


def draw_changes(results: dict[str, Any]) -> Figure:
    """Draw what single changes add to the gain of `REFERENCE`: the mean over the kinds, and each kind.

    Args:
        results: what `benchmarks.learning` wrote.
    """
    reference, changes = group_changes(results)
    kinds = list(reference[0]["gain"])
    figure = Figure(figsize=(11, 1.5 + 0.25 * len(changes)), dpi=DPI, layout="constrained")
    axes, map_axes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    table = []
    for row, runs in enumerate(changes.values()):
        added = subtract(runs, reference)
        means = [one["mean"] for one in added]
        axes.plot(means, [row] * len(means), "-", color="grey", marker="o", markerfacecolor=BLUE, markersize=4)
        table.append([fmean(one["gain"][kind] for one in added) for kind in kinds])
    axes.axvline(0, color="grey", lw=1)
    axes.set(yticks=range(len(changes)), yticklabels=changes, xlabel="added mean gain (dB), a dot for each seed")
    axes.tick_params(axis="y", labelsize="small")
    axes.grid(visible=True, alpha=0.3)
    axes.invert_yaxis()
    image = map_axes.imshow(table, cmap="PuOr", vmin=-MAPPED_DB, vmax=MAPPED_DB, aspect="auto")
    map_axes.set_xticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], rotation=60)
    figure.colorbar(image, ax=map_axes, extend="both", label="added gain (dB)")
    figure.suptitle(f"one change each of {REFERENCE}, trained for {name_budget(reference[0]['budget'])}")
    return figure


def draw_training(model: Path, runs: Sequence[str]) -> Figure:
    """Draw the validation of runs, one after the other, over the hours of all; stages before the restorer's in grey.

    Args:
        model: folder whose `training` holds a folder for each run, with `recipe.json` and `log.jsonl`.
        runs: names of the folders, in the order in which they ran.
    """
    figure = Figure(figsize=(9, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(cycler(marker=MARKERS) * cycler(linestyle=STROKES) * cycler(color=COLOURS))
    began = 0.0
    for name in runs:
        hours, gains, ended = read_run(model / "training" / name)
        data = json.loads((model / "training" / name / "recipe.json").read_text(encoding="utf-8"))["data"]
        if gains:
            label = f"{name}: {data['validation_pictures']} of {data['validation_patch']} px"
            axes.plot([began + hour for hour in hours], gains, label=label)
        else:
            axes.axvspan(began, began + ended, color="grey", alpha=0.2, lw=0)
            axes.text(began + ended / 2, 0.02, name, transform=axes.get_xaxis_transform(), rotation=90, ha="center")
        began += ended
    axes.set(xlabel="hours of training", ylabel="mean validation gain over seven kinds (dB)")
    axes.set_title(model.resolve().name)
    figure.legend(loc="outside right upper", title="run: validated on,\nof each kind", fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    return figure


def read_run(folder: Path) -> tuple[list[float], list[float], float]:
    """Read what a run of the restorer reached when.

    Args:
        folder: holds `recipe.json` and `log.jsonl`.

    Returns:
        Hours and mean gain over the kinds (dB) of each validation, none for other stages; and the hours of the whole.
    """
    stage = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["model"]["stage"]
    seconds, hours, gains = 0.0, [], []
    for record in Journal(folder / "log.jsonl").read():
        seconds = record.get("seconds", seconds)  # validations have none; they follow the record of their step
        own = [value for name, value in record.items() if name.startswith("gain_")]
        if own and stage == "restorer":
            hours.append(seconds / 3600)
            gains.append(fmean(own))
    return hours, gains, seconds / 3600


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def speed(
    results: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="What benchmarks.learning wrote.")] = (
        RESULTS / "learning.json"
    ),
    output: Annotated[Path, typer.Option(help="PNG file to write.")] = RESULTS / "speed.png",
) -> None:
    """Draw the gain of networks at equal training over the time that they take for a picture."""
    save_figure(draw_speed(json.loads(results.read_text(encoding="utf-8"))), output)


@app.command()
def changes(
    results: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="What benchmarks.learning wrote.")] = (
        RESULTS / "learning_changes.json"
    ),
    output: Annotated[Path, typer.Option(help="PNG file to write.")] = RESULTS / "learning_changes.png",
) -> None:
    """Draw what single changes of the light network and of its training add."""
    save_figure(draw_changes(json.loads(results.read_text(encoding="utf-8"))), output)


@app.command()
def training(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of weights and their logs.")],
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders in `training`, in their order.")],
    output: Annotated[
        Path | None, typer.Option(help="PNG file to write.", show_default="benchmarks/results/training_MODEL.png")
    ] = None,
) -> None:
    """Draw the validation of a model's runs over the hours that they took."""
    for name in runs:
        if not (model / "training" / name / "log.jsonl").is_file():
            raise typer.BadParameter(
                f"`run` must be a folder with a log in {model / 'training'}, got {name!r}; correct it"
            )
    save_figure(draw_training(model, runs), output or RESULTS / f"training_{model.resolve().name}.png")


if __name__ == "__main__":
    app()
