"""What `benchmarks.learning` found, as a table."""

import statistics
from typing import Any

from benchmarks.rendering import Grid, describe_machine, format_markdown

Runs = list[dict[str, Any]]


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
        means = [one["mean"] for one in runs]
        spread = f" ± {(max(means) - min(means)) / 2:.2f}" if len(runs) > 1 else ""
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
                f"{statistics.fmean(means):+.2f}{spread}",
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
