"""What `benchmarks.embedding` found, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown

PROBED = ("linear probe, any severity", "severity 0.5")


def embedding_grid(results: dict[str, Any]) -> Grid:
    """Bring the scores of `benchmarks.embedding` into rows, a kind each, then what is wanted and whether it is so.

    Args:
        results: what it wrote.
    """
    rebuilding, wanted = results["rebuilding"], results["wanted"]
    accuracies = [results["probe"][name]["accuracy"] for name in ("drawn", "middle")]
    rows = [["degradation", *["unchanged (dB)", "rebuilt", "gain"] * bool(rebuilding), *PROBED]]
    for kind in accuracies[0]:
        cells = [f"{accuracy[kind]:.3f}" for accuracy in accuracies]
        if rebuilding:
            scores = rebuilding[kind]
            cells = [f"{scores['unchanged']:.2f}", f"{scores['rebuilt']:.2f}", f"{scores['gain']:+.2f}", *cells]
        rows.append([kind.replace("_", " "), *cells])
    goals = [f"{wanted['accuracy']:.3f}"] * 2
    is_reached = [each["mean"] >= wanted["accuracy"] for each in accuracies]
    if rebuilding:
        goals = ["-", "-", f"{wanted['gain']:+.2f}", *goals]
        is_reached = [rebuilding["mean"]["gain"] >= wanted["gain"], *is_reached]
    verdicts = ["reached" if each else "missed" for each in is_reached]
    return [*rows, ["wanted", *goals], ["verdict", *["-", "-"] * bool(rebuilding), *verdicts]]


def render_embedding(results: dict[str, Any]) -> str:
    """Render what the embedding of an extractor knows.

    Args:
        results: what `benchmarks.embedding` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    pictures = results["pictures"]
    rebuilt = (
        "PSNR against the degraded picture, of the clean one unchanged and as the reconstruction unit rebuilds it; "
        if results["rebuilding"]
        else ""
    )
    return (
        f"{format_markdown(embedding_grid(results))}\n\n"
        f"The extractor of `{results['model']['name']}`. {rebuilt}Share of kinds that a linear classifier on the "
        f"frozen\nembedding names, trained on {pictures['training']} pictures of each kind. Tested on the "
        f"{pictures['test']} pictures of {results['clean']},\n{pictures['side']} pixels from the middle of each."
    )
