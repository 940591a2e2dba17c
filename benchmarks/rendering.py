"""Results files as tables: plain text for the terminal, Markdown for documents."""

import itertools
from statistics import median
from typing import Any

# Of a mean that no number holds, such as the PSNR of identical pictures; strict JSON carries null in its place.
NOT_FINITE = "not finite"

# The network beside whose time and memory those of all others are set.
RIVAL = "Restormer"

Grid = list[list[str]]


def format_columns(grid: Grid) -> str:
    """Set rows as plain text: the first column to the left, the numbers to the right.

    Args:
        grid: rows of as many cells, the headings first.
    """
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = []
    for first, *others in grid:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def format_markdown(grid: Grid) -> str:
    """Set rows as a Markdown table: the first column to the left, the numbers to the right.

    Args:
        grid: rows of as many cells, the headings first.
    """
    headings, *rows = (f"| {' | '.join(row)} |" for row in grid)
    return "\n".join([headings, f"|---{'|---:' * (len(grid[0]) - 1)}|", *rows])


def compare_with_paper(value: float, paper: float | None, unit: float, digits: int) -> list[str]:
    """Set a count, the paper's count, and how far ours is from it.

    Args:
        value: ours.
        paper: theirs; None where the paper gives none.
        unit: the cells count in multiples of it.
        digits: of our cell, after the point.

    Returns:
        Three cells; the last two are dashes where there is nothing to compare with.
    """
    ours = f"{value / unit:.{digits}f}"
    return [ours, "-", "-"] if paper is None else [ours, f"{paper / unit:g}", f"{value / paper - 1:+.2%}"]


def cost_grid(results: dict[str, Any]) -> Grid:
    """Bring the counts of `benchmarks.cost` into rows, a model each.

    Args:
        results: what it wrote.
    """
    grid = [["model", "params (M)", "paper", "deviation", "MACs (G)", "scan (G)", "total (G)", "paper", "deviation"]]
    for one in results["models"]:
        parameters = compare_with_paper(one["parameters"], one["paper"].get("parameters"), 1e6, 3)
        shares = [f"{one[name] / 1e9:.2f}" for name in ("macs", "scan_flops")]
        total = compare_with_paper(one["macs"] + one["scan_flops"], one["paper"].get("flops"), 1e9, 2)
        grid.append([one["name"], *parameters, *shares, *total])
    return grid


def render_cost(results: dict[str, Any]) -> str:
    """Render what the models cost.

    Args:
        results: what `benchmarks.cost` wrote.

    Returns:
        A Markdown table, and how it was counted.
    """
    return (
        f"{format_markdown(cost_grid(results))}\n\n"
        f"For one picture of {results['height']} x {results['width']} pixels, extractor included. Convolutions, "
        "linear layers and matrix products\ncount one per multiply-accumulate, a scan of L steps, D channels and N "
        "states 9 L D N + L D."
    )


def _format_mean(value: float | None, form: str) -> str:
    return NOT_FINITE if value is None else format(value, form)


def quality_grid(results: dict[str, Any]) -> Grid:
    """Bring the averages of `evaluate_accelerate.py` into rows, a task each, then all together.

    Args:
        results: what it wrote.
    """
    grid = [["degradation", "PSNR before (dB)", "after", "gain", "SSIM before", "after", "gain"]]
    for task, means in (results["tasks"] | {"overall": results["overall"]}).items():
        cells = []
        for metric, form in (("psnr", ".2f"), ("ssim", ".4f")):
            cells += [_format_mean(means[f"{metric}_{moment}"], form) for moment in ("degraded", "restored")]
            cells.append(_format_mean(means[f"{metric}_gain"], f"+{form}"))
        grid.append([task.replace("_", " "), *cells])
    return grid


def describe_machine(machine: dict[str, Any]) -> str:
    """Say on what a results file was measured.

    Args:
        machine: its section `machine`.
    """
    device = "" if machine["device"] == "cpu" else f"{machine['device']}, host "
    processes = f"{machine['processes']} processes of " if machine["processes"] > 1 else ""
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{device}{machine['cpu']}, {machine['cores']} cores, {processes}{threads}, torch {machine['torch']}"


def render_quality(results: dict[str, Any]) -> str:
    """Render how much a model restores.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table, and the conditions of the measurement.
    """
    benchmark, model = results["benchmark"], results["model"]
    # Unreadable files are missing from every task alike.
    pictures = results["overall"]["pictures"] // len(results["tasks"])
    failures = f" ({len(benchmark['failures'])} more were unreadable)" if benchmark["failures"] else ""
    return (
        f"{format_markdown(quality_grid(results))}\n\n"
        f"`{model['name']}` ({model['parameters'] / 1e6:.2f} M parameters, {model['dtype']}) on "
        f"`{benchmark['name']}`: {pictures} clean pictures of `{benchmark['clean']}`{failures},\n"
        f"each spoiled by each degradation at severity {benchmark['severity']:g}, seed {benchmark['seed']}; "
        "scores on RGB, 8 bit.\n"
        f"Measured {results['date'][:10]} on {describe_machine(results['machine'])}."
    )


def losses_grid(results: dict[str, Any]) -> Grid:
    """Count in rows, a task each, how often a restoration is worse than what it was made of, and by how much.

    Args:
        results: what `evaluate_accelerate.py` wrote.
    """
    grid = [["degradation", "pictures", "made worse", "lowest gain (dB)", "median gain (dB)", "highest gain (dB)"]]
    for task in results["tasks"]:
        gains = sorted(one["psnr_gain"] for one in results["images"] if one["task"] == task)
        shown = (gains[0], median(gains), gains[-1])
        cells = [str(len(gains)), str(sum(gain < 0 for gain in gains)), *(f"{gain:+.2f}" for gain in shown)]
        grid.append([task.replace("_", " "), *cells])
    return grid


def render_losses(results: dict[str, Any]) -> str:
    """Render how often a model makes a picture worse.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        A Markdown table.
    """
    return format_markdown(losses_grid(results))


def failures_grid(results: dict[str, Any]) -> Grid:
    """Bring the worst restorations of `benchmarks.failures` into rows, the lowest gain first.

    Args:
        results: what it wrote.
    """
    grid = [["degradation", "photograph", "PSNR before (dB)", "after", "gain"]]
    for one in results["worst"]:
        numbers = [f"{one['psnr_degraded']:.2f}", f"{one['psnr_restored']:.2f}", f"{one['psnr_gain']:+.2f}"]
        grid.append([one["task"].replace("_", " "), one["photograph"], *numbers])
    return grid


def render_failures(results: dict[str, Any]) -> str:
    """Render the worst restorations, and what restoring does to pictures that lack nothing.

    Args:
        results: what `benchmarks.failures` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    undamaged = [f"{one['photograph']} {_format_mean(one['psnr_restored'], '.2f')}" for one in results["undamaged"]]
    return (
        f"{format_markdown(failures_grid(results))}\n\n"
        f"The lowest gains of `{results['model']['name']}` among {results['pictures']} restorations of free "
        f"photographs, one for each degradation,\nseverity {results['severity']:g}, seed {results['seed']}. "
        f"Undamaged photographs come back at these PSNR (dB):\n{', '.join(undamaged)}."
    )


def export_grid(results: dict[str, Any]) -> Grid:
    """Bring the exported files of `benchmarks.export` into rows, the model itself first.

    Args:
        results: what it wrote.
    """
    sides = list(results["files"][0]["seconds"])
    timed = [f"{side} x {side} (s)" for side in sides]
    grid = [["file", "size (MiB)", "PSNR (dB)", "loss (dB)", "against the model (dB)", *timed]]
    for one in results["files"]:
        if "refused" in one:
            grid.append([one["name"], "refused", *["-"] * (3 + len(sides))])
            continue
        quality = ["-", "-"] if "loss" not in one else [f"{one['loss']:.3f}", f"{one['lowest']:.1f}"]
        seconds = [f"{one['seconds'][side]:.2f}" for side in sides]
        grid.append([one["name"], f"{one['bytes'] / 2**20:.2f}", f"{one['psnr']:.2f}", *quality, *seconds])
    return grid


def render_export(results: dict[str, Any]) -> str:
    """Render what exporting costs.

    Args:
        results: what `benchmarks.export` wrote.

    Returns:
        A Markdown table, its conditions, and why files were refused.
    """
    refused = [f"{one['name']}: {one['refused']}." for one in results["files"] if "refused" in one]
    text = (
        f"{format_markdown(export_grid(results))}\n\n"
        f"`{results['model']}` on {results['pictures']} free photographs, degraded at severity "
        f"{results['severity']:g}, seed {results['seed']}. PSNR is the\nmean against the clean photographs, the loss "
        "how much lower it is than the model's own; against the model, the\nlowest of a picture. Times are medians of "
        f"one picture. Measured {results['date'][:10]} on\n{describe_machine(results['machine'])}."
    )
    return "\n\n".join([text, *refused])


def description_grid(results: dict[str, Any]) -> Grid:
    """Bring the scores of `benchmarks.description` into rows, a kind each, then their mean.

    Args:
        results: what it wrote.
    """
    grid = [["degradation", "named rightly", "rank correlation of severity"]]
    for kind, accuracy in results["accuracy"].items():
        grid.append([kind.replace("_", " "), f"{accuracy:.3f}", f"{results['spearman'][kind]:.3f}"])
    return grid


def render_description(results: dict[str, Any]) -> str:
    """Render how well a model names what spoiled a picture.

    Args:
        results: what `benchmarks.description` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(description_grid(results))}\n\n"
        f"`{results['model']}` on {results['pictures']} clean pictures of `{results['clean']}`, each spoiled by each "
        f"kind, seed {results['seed']}."
    )


def embedding_grid(results: dict[str, Any]) -> Grid:
    """Bring the scores of `benchmarks.embedding` into rows, a kind each, then what is wanted and whether it is so.

    Args:
        results: what it wrote.
    """
    rows = [["degradation", "unchanged (dB)", "rebuilt", "gain", "linear probe, any severity", "severity 0.5"]]
    accuracies = [results["probe"][name]["accuracy"] for name in ("drawn", "middle")]
    for kind, scores in results["rebuilding"].items():
        decibels = [f"{scores['unchanged']:.2f}", f"{scores['rebuilt']:.2f}", f"{scores['gain']:+.2f}"]
        rows.append([kind.replace("_", " "), *decibels, *(f"{accuracy[kind]:.3f}" for accuracy in accuracies)])
    gain, share = results["wanted"]["gain"], results["wanted"]["accuracy"]
    is_reached = [results["rebuilding"]["mean"]["gain"] >= gain, *(each["mean"] >= share for each in accuracies)]
    rows.append(["wanted", "-", "-", f"{gain:+.2f}", f"{share:.3f}", f"{share:.3f}"])
    return [*rows, ["verdict", "-", "-", *("reached" if each else "missed" for each in is_reached)]]


def render_embedding(results: dict[str, Any]) -> str:
    """Render what the embedding of an extractor knows.

    Args:
        results: what `benchmarks.embedding` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    pictures = results["pictures"]
    return (
        f"{format_markdown(embedding_grid(results))}\n\n"
        f"PSNR against the degraded picture, of the clean one unchanged and as the reconstruction unit rebuilds it;\n"
        f"share of kinds that a linear classifier on the frozen embedding names, trained on {pictures['training']} "
        f"pictures of each kind.\nTested on the {pictures['test']} pictures of {results['clean']}, "
        f"{pictures['side']} pixels from the middle of each."
    )


def scan_grid(results: dict[str, Any]) -> Grid:
    """Bring the times of `benchmarks.scan` into rows, with each rival's over ours at the same length.

    Args:
        results: what it wrote.
    """
    records = results["records"]
    ours = {one["L"]: one["forward"] for one in records if one["scan"] == "ours"}
    rows = [["scan", "L", "forward (ms)", "over ours", "G updates/s", "backward / forward", "memory / data"]]
    for one in records:
        rows.append(
            [
                one["scan"],
                str(one["L"]),
                f"{one['forward'] * 1e3:.2f}",
                f"{one['forward'] / ours[one['L']]:.1f}",
                f"{one['updates'] / 1e9:.3f}",
                f"{one['backward'] / one['training_forward']:.2f}" if "backward" in one else "-",
                f"{one['memory']:.2f}" if "memory" in one else "-",
            ]
        )
    return rows


def render_scan(results: dict[str, Any]) -> str:
    """Render what the selective scan takes.

    Args:
        results: what `benchmarks.scan` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(scan_grid(results))}\n\n"
        f"One picture, L steps of {results['D']} channels with {results['N']} states, float32. The backward is set "
        "beside the forward of the same\ntraining step; memory is the most that both hold, over inputs, output and "
        f"their gradients.\nMeasured on {describe_machine(results['machine'])}, medians."
    )


def forward_grid(results: dict[str, Any]) -> Grid:
    """Bring the times of `benchmarks.forward` into rows, with each one over Restormer's in float32 at the same size.

    Args:
        results: what it wrote.
    """
    rivals = {one["pixels"]: one for one in results["records"] if (one["model"], one["dtype"]) == (RIVAL, "float32")}
    rows = [["model", "dtype", "pixels", "seconds", f"of {RIVAL}'s", "GiB", f"of {RIVAL}'s", "of ceiling", "s / Mpx"]]
    for one in results["records"]:
        rival = rivals.get(one["pixels"])
        has_memory = one["memory"] is not None
        rows.append(
            [
                one["model"],
                one["dtype"],
                str(one["pixels"]),
                f"{one['seconds']:.2f}",
                f"{one['seconds'] / rival['seconds']:.2f}" if rival else "-",
                f"{one['memory'] / 2**30:.2f}" if has_memory else "-",
                f"{one['memory'] / rival['memory']:.2f}" if rival and has_memory else "-",
                f"{one['flops'] / results['ceiling'][one['dtype']]:.0%}",
                f"{one['seconds'] / one['pixels'] ** 2 * 1e6:.2f}",
            ]
        )
    return rows


def render_forward(results: dict[str, Any]) -> str:
    """Render what restoring one picture takes.

    Args:
        results: what `benchmarks.forward` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    ceilings = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in results["ceiling"].items())
    return (
        f"{format_markdown(forward_grid(results))}\n\n"
        f"One square picture, random weights, medians of {results['repeats']} interleaved runs in one process, the "
        f"same memory settings for all.\nThe ceiling is a matrix product's rate: {ceilings}. "
        f"Measured on {describe_machine(results['machine'])}."
    )


def command_grid(results: dict[str, Any]) -> Grid:
    """Bring the runs of `benchmarks.command` into rows, a picture each.

    Args:
        results: what it wrote.
    """
    rows = [["picture", "megapixels", "seconds", "GiB"]]
    for one in results["records"]:
        megapixels = one["width"] * one["height"] / 1e6
        name = f"{one['width']} x {one['height']}"
        rows.append([name, f"{megapixels:.2f}", f"{one['seconds']:.1f}", f"{one['memory'] / 2**30:.2f}"])
    return rows


def render_command(results: dict[str, Any]) -> str:
    """Render what the command line takes from file to file.

    Args:
        results: what `benchmarks.command` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    return (
        f"{format_markdown(command_grid(results))}\n\n"
        f"`restore_images.py` with `{results['model']}`, a process for each picture: imports, weights, decoding, "
        f"restoring, encoding.\nMedians of {results['repeats']} runs with compiled kernels, memory the highest. "
        f"Measured on {describe_machine(results['machine'])}."
    )


def tiling_grid(results: dict[str, Any]) -> Grid:
    """Bring the mean and the worst of each overlap into rows.

    Args:
        results: what `benchmarks.tiling` wrote.
    """
    rows = [["overlap", "tiles", "PSNR mean (dB)", "worst", "seam, worst"]]
    for overlap, way in itertools.product(results["records"][0]["overlaps"], ("share", "apart")):
        found = [one["overlaps"][overlap][way] for one in results["records"]]
        psnrs = [one["psnr"] for one in found]
        seam = f"{max(one['seam'] for one in found):.2f}"
        rows.append([overlap, way, f"{sum(psnrs) / len(psnrs):.2f}", f"{min(psnrs):.2f}", seam])
    return rows


def render_tiling(results: dict[str, Any]) -> str:
    """Render how far tiled results are from whole ones: a Markdown table, and its conditions.

    Args:
        results: what `benchmarks.tiling` wrote.
    """
    return (
        f"{format_markdown(tiling_grid(results))}\n\n"
        f"PSNR between tiled and whole results of `{results['model']}`, {len(results['records'])} spoiled pictures of "
        f"{results['side']} x {results['side']}.\nTiles share the whole picture's embedding, means and states, or "
        "stand apart. A seam is the error's size where tiles meet, over that elsewhere.\n"
        f"Measured on {describe_machine(results['machine'])}."
    )
