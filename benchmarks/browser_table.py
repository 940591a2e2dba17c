"""What `benchmarks.browser` measured, as a table."""

from typing import Any

from benchmarks.rendering import Grid, format_markdown


def browser_grid(results: dict[str, Any]) -> Grid:
    """Bring the visits of `benchmarks.browser` into columns, one for each screen.

    Args:
        results: what it wrote.
    """
    visits = results["visits"]
    grid = [
        ["screen", *(f"{one['screen']} pixels wide" for one in visits)],
        ["its host isolates the page", *("yes" if one["isolated"] else "no" for one in visits)],
        ["the network runs as", *(one["engine"] for one in visits)],
        ["transfer, weights included (MB)", *(f"{one['transfer'] / 1e6:.1f}" for one in visits)],
        ["requests to other hosts", *(str(one["elsewhere"]) for one in visits)],
    ]
    for runs in zip(*(one["pictures"] for one in visits), strict=True):
        size = f"{runs[0]['width']} x {runs[0]['height']}"
        megapixels = runs[0]["width"] * runs[0]["height"] / 1e6
        grid += [
            [f"{size}, first (s)", *(f"{one['first']:.1f}" for one in runs)],
            [f"{size}, again (s)", *(f"{one['again']:.1f}" for one in runs)],
            [f"{size}, again, a megapixel (s)", *(f"{one['again'] / megapixels:.1f}" for one in runs)],
            [f"{size}, greatest difference (levels)", *(str(one["difference"]) for one in runs)],
        ]
    return grid


def render_browser(results: dict[str, Any]) -> str:
    """Render what the static page transfers and takes.

    Args:
        results: what `benchmarks.browser` wrote.

    Returns:
        A Markdown table, and its conditions.
    """
    machine, one = results["machine"], results["visits"][0]
    return (
        f"{format_markdown(browser_grid(results))}\n\n"
        f"`{results['model']}`. Seconds from the choice of a file until it is restored, on the page's clock. The\n"
        "first picture is chosen as soon as the page is open, so that its first run waits for the network too.\n"
        f"Again: the median of {results['repeats']} further runs. Differences are from the package's restoration in\n"
        f"float32, of 255 levels. All files of the page, with those for WebGPU, are {results['page'] / 1e6:.1f} MB.\n"
        f"Measured {results['date'][:10]} in Chromium {one['chromium']} with onnxruntime-web\n"
        f"{one['onnxruntime_web']} on {machine['cpu']}, {machine['cores']} cores."
    )
