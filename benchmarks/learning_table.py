"""What `benchmarks.learning` found, as a table."""

import json
import statistics
from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown

Runs = list[dict[str, Any]]

# What the candidates that change one thing are compared with.
REFERENCE = "light_frozen"


def name_budget(budget: dict[str, Any]) -> str:
    """Name a budget: "30 minutes", "400 steps".

    Args:
        budget: `unit` and `amount`.
    """
    return f"{budget['amount']:g} {budget['unit']}"


def group_runs(results: dict[str, Any]) -> dict[tuple[str, str], Runs]:
    """Group the runs of the seeds, by budget and candidate: the longest budget first, in it the highest gain.

    Args:
        results: what `benchmarks.learning` wrote.
    """
    groups: dict[tuple[str, str], Runs] = {}
    for one in results["records"]:
        groups.setdefault((name_budget(one["budget"]), one["candidate"]), []).append(one)

    def rank(item: tuple[tuple[str, str], Runs]) -> tuple[str, float, float]:
        budget = item[1][0]["budget"]
        return budget["unit"], -budget["amount"], -_mean(item[1], "mean")

    return dict(sorted(groups.items(), key=rank))


def _mean(runs: Runs, key: str) -> float:
    return statistics.fmean(one[key] for one in runs)


def learning_grid(results: dict[str, Any]) -> Grid:
    """Bring the runs into rows, the seeds of a candidate together.

    Args:
        results: what `benchmarks.learning` wrote.
    """
    kinds = list(results["records"][0]["gain"])
    costs = ["trained (M)", "kMAC / px", "scan", "steps", "s / step", "kpx / s", "s / Mpx", "GiB"]
    rows = [["network", "budget", *costs, "seeds", "gain (dB)", *(kind.replace("_", " ") for kind in kinds), "clean"]]
    for (budget, name), runs in group_runs(results).items():
        memories = [one["memory"] for one in runs if one["memory"] is not None]
        clean = [one["clean"] for one in runs if one["clean"] is not None]
        rows.append(
            [
                name,
                budget,
                f"{runs[0]['trained'] / 1e6:.2f}",
                f"{runs[0]['macs'] / 1e3:.1f}",
                f"{runs[0]['scan_flops'] / 1e3:.1f}",
                f"{_mean(runs, 'steps'):.0f}",
                f"{_mean(runs, 'step_seconds'):.3f}",
                f"{_mean(runs, 'pixels_per_second') / 1e3:.1f}",
                f"{_mean(runs, 'megapixel_seconds'):.2f}",
                f"{statistics.fmean(memories) / 2**30:.2f}" if memories else "-",
                str(len(runs)),
                state_mean([one["mean"] for one in runs]),
                *(f"{statistics.fmean(one['gain'][kind] for one in runs):+.2f}" for kind in kinds),
                f"{statistics.fmean(clean):.1f}" if clean else "-",
            ]
        )
    return rows


def detail_grid(results: dict[str, Any]) -> Grid:
    """Bring into rows what the runs gain in detail alone, the seeds of a candidate together.

    Args:
        results: what `benchmarks.learning` wrote.
    """
    kinds = list(results["records"][0]["detail"])
    rows = [["network", "budget", *(kind.replace("_", " ") for kind in kinds)]]
    for (budget, name), runs in group_runs(results).items():
        gains = [statistics.fmean(one["detail"][kind] for one in runs) for kind in kinds]
        rows.append([name, budget, *(f"{gain:+.2f}" for gain in gains)])
    return rows


def render_learning(results: dict[str, Any]) -> str:
    """Render how fast networks learn: two Markdown tables, and their conditions.

    Args:
        results: what `benchmarks.learning` wrote.
    """
    machines = sorted({describe_machine(one["machine"]) for one in results["records"]})
    return (
        f"{format_markdown(learning_grid(results))}\n\n"
        "All networks see the same patches in the same order, each on one thread; a budget counts training steps "
        "alone.\nThose of this family and `film` start with the trained extractor, the others from random weights.\n"
        "Gain: PSNR after minus before on held-out photographs under each kind at severity 0.5, ± half the range of "
        "the\nseeds; clean: PSNR of what becomes of undegraded ones. Multiply-accumulates and the scan's operations, "
        "in thousands,\nare for a pixel of 256 x 256; seconds a megapixel and memory for restoring 1024 x 1024 "
        "pixels.\n"
        f"Measured on {'; '.join(machines)}.\n\n"
        "The gain in detail alone, where the means of squares of 32 pixels stay as they were in the degraded picture:"
        f"\n\n{format_markdown(detail_grid(results))}"
    )


def group_changes(results: dict[str, Any]) -> tuple[Runs, dict[str, Runs]]:
    """Group the runs that change one thing of `REFERENCE`, the highest gain first.

    Args:
        results: what `benchmarks.learning` wrote, all with one budget.

    Returns:
        The runs of `REFERENCE`; and those of each change, by what they change.

    Raises:
        ValueError: the runs have several budgets, or `REFERENCE` is missing.
    """
    groups = group_runs(results)
    budgets = sorted({budget for budget, _ in groups})
    if len(budgets) > 1 or (budgets[0], REFERENCE) not in groups:
        raise ValueError(f"`records` must be {REFERENCE}'s and of one budget, got {', '.join(budgets)}; measure anew")
    reference = groups.pop((budgets[0], REFERENCE))
    own = reference[0]["definition"]
    return reference, {name_change(runs[0]["definition"], own): runs for runs in groups.values()}


def name_change(definition: dict[str, Any], reference: dict[str, Any]) -> str:
    """Say what a candidate has otherwise than another: "has_film = false", "lr = 0.004".

    Args:
        definition: the candidate's.
        reference: the other's.
    """
    if "class" in definition["network"]:
        told = ", told by the extractor" if "film" in definition["network"] else ""
        return definition["network"]["class"].rpartition(".")[2] + told
    ours, theirs = ({"loss": "own"} | _flatten(one) for one in (definition, reference))
    changed = [
        f"{name} = {json.dumps(value)}" for name, value in ours.items() if name not in theirs or theirs[name] != value
    ]
    return ", ".join([*changed, *(f"{name} unset" for name in theirs if name not in ours)])


def _flatten(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flatten(value) if isinstance(value, dict) else {name: value}
    return flat


def render_changes(results: dict[str, Any]) -> str:
    """Render what single changes of `REFERENCE` do, as a Markdown table and its conditions.

    Args:
        results: what `benchmarks.learning` wrote.
    """
    reference, changes = group_changes(results)
    kinds = list(reference[0]["gain"])
    rows = [["change", "s / step", "s / Mpx", "gain (dB)", *(kind.replace("_", " ") for kind in kinds), "clean"]]
    for change, runs in [("none", reference), *changes.items()]:
        own = runs if runs is reference else subtract(runs, reference)
        rows.append(
            [
                f"`{change}`" if runs is not reference else change,
                f"{_mean(runs, 'step_seconds'):.3f}",
                f"{_mean(runs, 'megapixel_seconds'):.2f}",
                state_mean([one["mean"] for one in own]),
                *(f"{statistics.fmean(one['gain'][kind] for one in own):+.2f}" for kind in kinds),
                f"{statistics.fmean(one['clean'] for one in own):{'.1f' if runs is reference else '+.1f'}}",
            ]
        )
    return (
        f"{format_markdown(rows)}\n\n"
        f"The first row is what `{REFERENCE}` gains after {name_budget(reference[0]['budget'])} of {len(reference)} "
        "seeds; each other one what a change adds to that\nwith the same seeds, ± half the range of them. Measured on "
        f"{describe_machine(reference[0]['machine'])}."
    )


def subtract(runs: Runs, reference: Runs) -> Runs:
    """Return what each run has above that of the reference with its seed: `mean`, `gain` and `clean`.

    Args:
        runs: of a change.
        reference: of as many seeds.
    """
    others = {one["seed"]: one for one in reference}
    return [
        {
            "mean": one["mean"] - others[one["seed"]]["mean"],
            "gain": {kind: gain - others[one["seed"]]["gain"][kind] for kind, gain in one["gain"].items()},
            "clean": one["clean"] - others[one["seed"]]["clean"],
        }
        for one in runs
    ]


def state_mean(values: list[float]) -> str:
    """Set a mean, and half the range where there are several values."""
    spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.2f}{spread}"
