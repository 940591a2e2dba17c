"""The page: its layout, and which visit follows which touch."""

from html import escape
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from .pictures import LIFETIME, MAX_MEGAPIXELS, SWEEP, UPLOAD_FORMATS
from .report import name_kind
from .restorer import Restorer
from .visits import MAX_STRENGTH, Findings, View, Visits, Wish

TITLE = "Restore a photograph"
TAGLINE = (
    "Haze, rain, snow, darkness, blur, JPEG artefacts, noise: one small network finds what is wrong and mends it."
)
CAUTION = "A restoration is an estimate: it can invent or remove detail. Do not use it as evidence or for diagnosis."
PRIVACY = "Pictures stay on this server, and are deleted within about an hour."
PAPER = "https://arxiv.org/abs/2504.17732"
OPENING_EXAMPLE = "low_light"

STYLES = Path(__file__).with_name("page.css")
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")

MAX_QUEUE = 20
# The network takes one picture at a time; turning the strength of a finished one need not wait for it.
RESTORING = {"concurrency_id": "restoring", "concurrency_limit": 1}
SHOWING = {"concurrency_id": "showing", "concurrency_limit": 2}


class Parts(NamedTuple):
    """The parts of the page that show a restoration: those of `View`, then those of `Findings`."""

    slider: gr.ImageSlider
    download: gr.DownloadButton
    caption: gr.HTML
    report: gr.HTML


class Controls(NamedTuple):
    """The parts of the page that say how to restore; but for the strength the network runs anew for each change."""

    strength: gr.Slider
    repair: gr.CheckboxGroup
    ensemble: gr.Checkbox


def build_page(restorer: Restorer, examples: Path) -> gr.Blocks:
    """Lay out the page, which opens with a restored example, and connect it to the model.

    Args:
        restorer: a trained model.
        examples: folder of pictures to offer, PNG, named after what spoils them.

    Raises:
        ValueError: the folder holds no pictures.
    """
    pictures = sorted(examples.glob("*.png"), key=lambda path: (path.stem != OPENING_EXAMPLE, path.stem))
    if not pictures:
        raise ValueError(f"`examples` must be a folder with PNG pictures, got {examples}; restore the shipped one")
    with gr.Blocks(title=f"{TITLE} - DPMambaIR", analytics_enabled=False, delete_cache=(SWEEP, LIFETIME)) as page:
        gr.HTML(f"<header><h1>{TITLE}</h1><p>{TAGLINE}</p></header>", elem_id="heading")
        with gr.Row(elem_id="workbench"):
            upload, gallery = _draw_choice(pictures)
            visits = Visits(restorer, pictures, Path(upload.GRADIO_CACHE))
            opening = visits.restore(Wish(str(pictures[0])))
            controls, shown = _draw_result(restorer, visits.view(opening, strength=1), visits.tell(opening))
        gr.HTML(_draw_footer(restorer), elem_id="closing")
        _connect(visits, (upload, gallery), controls, shown)
    return page.queue(max_size=MAX_QUEUE)


def draw_theme() -> gr.themes.Base:
    """Return the page's colours and fonts: the visitor's own fonts, so that none is loaded."""
    theme = gr.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=FONTS,
        font_mono=MONOSPACE,
    )
    # The theme's own shades are too light to read: white on the button, grey on the page.
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        slider_color="*primary_600",
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",
        block_info_text_color="*neutral_500",
    )


def _connect(visits: Visits, choice: tuple[gr.File, gr.Gallery], controls: Controls, shown: Parts) -> None:
    """Say which visit follows which touch, and offer restoring to programs."""
    (upload, gallery), (strength, *how), degradations = choice, controls, gr.JSON(visible=False)
    # First, so that no other event takes the name.
    gr.on([], visits.serve, [upload, *controls], [shown.download, degradations], api_name="restore", **RESTORING)
    # What can be shown, and what the visitor chose last: two pictures while one is worked on.
    opening = Wish(str(visits.examples[0]))
    picture, wanted = gr.State(opening), gr.State(opening)
    at_once = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    waiting = [wanted, shown.caption, shown.report, shown.download]
    on_slider = {"show_progress_on": shown.slider, "scroll_to_output": True, "api_visibility": "private"}
    chosen = gallery.select(visits.begin_example, how, waiting, **at_once)
    uploaded = upload.upload(visits.begin, [upload, *how], waiting, **at_once)
    changed = (each.input(visits.begin_again, [wanted, *how], waiting, **at_once) for each in how)
    for begun in (chosen, uploaded, *changed):
        restored = begun.then(visits.restore, wanted, picture, **on_slider, **RESTORING)
        # A step of its own, so that the strength is the one that is set when the picture is ready.
        restored.success(visits.show, [picture, wanted, strength], list(shown), **on_slider, **SHOWING)
        restored.failure(visits.go_back, [picture, strength], [wanted, *shown], **on_slider, **SHOWING)
    # Only the last of the positions that a moving slider passes counts.
    strength.input(
        visits.turn, [picture, wanted, strength], [shown.slider, shown.download],
        trigger_mode="always_last", show_progress="hidden", api_visibility="private", **SHOWING,
    )  # fmt: skip


def _draw_choice(pictures: list[Path]) -> tuple[gr.File, gr.Gallery]:
    with gr.Column(scale=1, min_width=300, elem_id="choice"):
        upload = gr.File(label="Your photograph", file_types=["image"], height=150, elem_id="upload")
        gr.HTML(f"<p>{', '.join(UPLOAD_FORMATS)}, up to {MAX_MEGAPIXELS} megapixels</p>", elem_id="limits")
        gallery = gr.Gallery(
            [(path, name_kind(path.stem)) for path in pictures], label="Or try an example", object_fit="cover",
            allow_preview=False, buttons=[], interactive=False, format="png", elem_id="examples",
        )  # fmt: skip
    return upload, gallery


def _draw_result(restorer: Restorer, view: View, findings: Findings) -> tuple[Controls, Parts]:
    with gr.Column(scale=3, min_width=320, elem_id="result"):
        slider = gr.ImageSlider(
            view.pair, label="Before and after", format="png", type="pil", interactive=False, max_height=640,
            buttons=["fullscreen"], elem_id="slider",
        )  # fmt: skip
        caption = gr.HTML(findings.caption, elem_id="caption")
        with gr.Row(elem_id="controls"):
            strength = gr.Slider(
                0, MAX_STRENGTH, value=1, step=0.05, label="Strength", elem_id="strength", scale=3, min_width=240,
                info="0 leaves the picture as it was, 1 restores it, more exaggerates.",
            )  # fmt: skip
            download = gr.DownloadButton(
                "Download PNG", view.download, variant="primary", elem_id="download", scale=1, min_width=200
            )
        repair, ensemble = _draw_options(restorer)
        report = gr.HTML(findings.report, elem_id="report")
    return Controls(strength, repair, ensemble), Parts(slider, download, caption, report)


def _draw_options(restorer: Restorer) -> tuple[gr.CheckboxGroup, gr.Checkbox]:
    kinds = restorer.steers
    repair = gr.CheckboxGroup(
        [(name_kind(kind), kind) for kind in kinds], value=list(kinds), visible=bool(kinds), elem_id="repair",
        label="Repair", info="What is not ticked stays, for the most part.",
    )  # fmt: skip
    ensemble = gr.Checkbox(
        False, label="Self-ensemble", elem_id="ensemble",
        info="Averages over eight flips and turns; takes eight times as long. The shipped weights gain nothing by it.",
    )  # fmt: skip
    return repair, ensemble


def _draw_footer(restorer: Restorer) -> str:
    model = f"{escape(restorer.name)} ({restorer.million_parameters:.2f} million parameters)"
    paper = f'<a href="{PAPER}" target="_blank" rel="noopener">the paper</a>'
    return f"<footer><p>{CAUTION}</p><p>{PRIVACY} Model: {model}, an implementation of {paper}.</p></footer>"
