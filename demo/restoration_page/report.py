"""The degradation report: what had spoiled a picture, as a table of bars."""

from html import escape

from .restorer import Degradations

TITLE = "What spoiled this picture"
SILENT = "This model restores without telling what it found."
HINT = "How sure the model is that each kind is there, and how strong it is if so."


def draw_report(degradations: Degradations | None) -> str:
    """Draw the report as HTML.

    Args:
        degradations: what was found, by kind; None for a model that does not describe.

    Returns:
        A section with a row for each kind, the likeliest first, or with an apology.
    """
    if degradations is None:
        return _section(f"<p>{SILENT}</p>")
    ordered = sorted(degradations.items(), key=lambda found: -found[1]["presence"])
    rows = "".join(_row(kind, **found) for kind, found in ordered)
    head = '<tr><th scope="col">Kind</th><th scope="col">Presence</th><th scope="col">Severity</th></tr>'
    return _section(f"<p>{HINT}</p><table><thead>{head}</thead><tbody>{rows}</tbody></table>")


def name_kind(kind: str) -> str:
    """Write the name of a degradation, or of an example's file, as people do."""
    return "JPEG" if kind == "jpeg" else kind.replace("_", " ").capitalize()


def _section(content: str) -> str:
    return f'<section class="report"><h2>{TITLE}</h2>{content}</section>'


def _row(kind: str, presence: float, severity: float) -> str:
    verdict = "likely" if presence >= 0.5 else "unlikely"
    bars = _bar(presence, "presence") + _bar(severity, "severity")
    return f'<tr class="{verdict}"><th scope="row">{escape(name_kind(kind))}</th>{bars}</tr>'


def _bar(share: float, name: str) -> str:
    percent = f"{share:.0%}"
    return f'<td class="{name}"><span class="bar"><span style="width: {percent}"></span></span><b>{percent}</b></td>'
