"""What `benchmarks.embedding` found, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown


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
