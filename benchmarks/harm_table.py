"""What `benchmarks.harm` measured, as tables."""

from typing import Any

from benchmarks.rendering import describe_machine, format_markdown, format_mean


def render_harm(results: dict[str, Any]) -> str:
    """Render what becomes of clean pictures, and what degraded ones lose by being JPEG files.

    Args:
        results: what `benchmarks.harm` wrote.

    Returns:
        Two Markdown tables, and their conditions.
    """
    kept = [
        [
            "clean pictures",
            "number",
            "PSNR after (dB)",
            "lowest (dB)",
            f"below {results['bound']} dB",
            "tint of grey (levels)",
            "changed at strength 0",
        ]
    ]
    for one in results["clean"]:
        numbers = [format_mean(one[name], ".2f") for name in ("psnr", "lowest")]
        counts = [str(one[name]) for name in ("below", "tint", "changed")]
        kept.append([f"`{one['folder']}`", str(one["pictures"]), *numbers, *counts])
    files = [["degraded pictures", "pairs", "degraded (dB)", "restored (dB)", "restored from JPEG (dB)"]]
    for one in results["pairs"]:
        numbers = [format_mean(one[name], ".2f") for name in ("degraded", "restored", "restored_from_jpeg")]
        files.append([f"`{one['folder']}`", str(one["pairs"]), *numbers])
    model = results["model"]["name"]
    return (
        f"{format_markdown(kept)}\n\n{format_markdown(files)}\n\n"
        f"`{model}` (float32), scores on RGB, 8 bit; JPEG of quality {results['quality']}. The tint is the greatest "
        f"difference between\nchannels of what was grey. Measured {results['date'][:10]} on "
        f"{describe_machine(results['machine'])}."
    )
