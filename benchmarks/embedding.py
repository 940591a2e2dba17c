"""Measure what an embedding knows: `python -m benchmarks.embedding --model DIR --photographs DIR --clean DIR`.

Three looks at an extractor: how well a linear classifier on the frozen embedding, trained on the photographs of the
training and tested on other pictures, names the kind, of any severity and of the benchmark synthetic7's; a map of the
embeddings in the plane, by kind and by severity; and, where pre-training left the unit that rebuilds, how much better
degraded pictures are rebuilt than by leaving the clean ones unchanged.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.embedding_table import embedding_grid
from benchmarks.files import RESULTS, name_weights, write_text
from benchmarks.rendering import format_columns
from dataset_scripts.__main__ import save_figure
from dataset_scripts.degradations import KINDS, apply_degradations, sample_degradation
from dataset_scripts.synthetic_restoration import list_photographs
from dataset_scripts.transforms import center_window, crop, to_float, to_tensor
from dpmambair.shipped import SHIPPED
from modeling_dpmambair import (
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRConfig,
    load_model,
)
from restoration_metrics import psnr

SEED = 2504
DRAWN = (0.1, 0.9)  # severities, drawn uniformly
MIDDLE = (0.5, 0.5)  # that of the benchmark synthetic7
DRAWS = 3  # times that each photograph of the classifier's training is degraded in each way
SIDE = 256  # pixels of the middle of each picture that are looked at, degraded as they would be inside the whole
GAIN_WANTED, ACCURACY_WANTED = 5.0, 0.85


class Spoiled(NamedTuple):
    """A picture and what became of it.

    Attributes:
        kind: index in `KINDS`.
        severity: in [0, 1].
        clean: (1, 3, H, W), RGB in [0, 1].
        degraded: of the same shape, rounded as an 8-bit file holds it.
    """

    kind: int
    severity: float
    clean: Tensor
    degraded: Tensor


class Embedded(NamedTuple):
    """Pictures as the extractor sees them.

    Attributes:
        kinds: indices in `KINDS`, (N,).
        severities: in [0, 1], (N,).
        embeddings: (N, E) float32.
    """

    kinds: np.ndarray
    severities: np.ndarray
    embeddings: np.ndarray


def load_extractor(folder: Path) -> tuple[DegradationExtractorModel, nn.Module | None]:
    """Load the extractor of a restorer, or what pre-training left: an extractor and the unit that rebuilds.

    Args:
        folder: of either.
    """
    if DPMambaIRConfig.get_config_dict(folder)[0].get("model_type") == DPMambaIRConfig.model_type:
        extractor, unit = load_model(folder).extractor, None
    else:
        model = DegradationExtractorForPreTraining.from_pretrained(folder).eval()
        extractor, unit = model.extractor, model.reconstruction_unit
    extractor.reparameterize()  # one convolution is faster than its branches
    return extractor, unit


def spoil(paths: Sequence[str], seed: int, severities: tuple[float, float] = DRAWN) -> Iterator[Spoiled]:
    """Degrade the middle of each picture by each kind once, at a severity of its own.

    Args:
        paths: of clean pictures.
        seed: of all draws.
        severities: lowest and highest.
    """
    for place, path in enumerate(tqdm(paths, unit="picture", disable=None)):
        with Image.open(path) as picture:
            whole = np.asarray(picture.convert("RGB"))
        window = center_window(*whole.shape[:2], SIDE, SIDE)
        clean = to_float(crop(whole, window))
        for kind, name in enumerate(KINDS):
            rng = np.random.default_rng((seed, kind, place))
            drawn = sample_degradation(name, float(rng.uniform(*severities)), rng)
            degraded = apply_degradations(clean, [drawn], origin=(window.top, window.left), size=whole.shape[:2])
            rounded = torch.round(to_tensor(degraded)[None] * 255) / 255
            yield Spoiled(kind, drawn.severity, to_tensor(clean)[None], rounded)


def _spoil_often(paths: Sequence[str]) -> Iterator[Spoiled]:
    for draw in range(DRAWS):
        yield from spoil(paths, SEED + 1 + draw)


@torch.no_grad()
def embed(extractor: DegradationExtractorModel, pictures: Iterable[Spoiled]) -> Embedded:
    """Embed degraded pictures.

    Args:
        extractor: whose embedding is looked at.
        pictures: from `spoil`.
    """
    rows = [(one.kind, one.severity, extractor(one.degraded).degradation_embedding[0].numpy()) for one in pictures]
    return Embedded(*(np.stack(column) for column in zip(*rows, strict=True)))


@torch.no_grad()
def measure_rebuilding(
    extractor: DegradationExtractorModel, unit: nn.Module, pictures: Iterable[Spoiled]
) -> dict[str, dict[str, float]]:
    """Compare degraded pictures rebuilt from clean ones and the embedding with the clean ones left unchanged.

    Args:
        extractor: as pre-training left it.
        unit: that was trained beside it.
        pictures: from `spoil`.

    Returns:
        Of each kind, and of `mean` over the kinds: `unchanged`, `rebuilt` and `gain`, mean PSNR against the degraded
        picture, dB.
    """
    scores: list[list[tuple[float, float]]] = [[] for _ in KINDS]
    for kind, _, clean, degraded in pictures:
        torch.manual_seed(SEED)  # of the noise that the reconstruction unit adds
        embedding = extractor(degraded).degradation_embedding
        rebuilt = unit(clean, embedding).clamp(0, 1)
        scores[kind].append((float(psnr(clean, degraded)), float(psnr(rebuilt, degraded))))
    means = [np.mean(own, axis=0) for own in scores]
    named = zip((*KINDS, "mean"), (*means, np.mean(means, axis=0)), strict=True)
    return {
        name: {"unchanged": float(unchanged), "rebuilt": float(rebuilt), "gain": float(rebuilt - unchanged)}
        for name, (unchanged, rebuilt) in named
    }


def probe(training: Embedded, tests: Mapping[str, Embedded]) -> dict[str, dict[str, Any]]:
    """Train a linear classifier of the kind on frozen embeddings, and test it.

    Args:
        training: its pictures.
        tests: other pictures, by name.

    Returns:
        Of each test `confusion`: true kind to counts of named kinds; `accuracy`: by kind, and `mean`.
    """
    # How strongly to regularise, the training pictures tell by cross-validation.
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    classifier = GridSearchCV(linear, {"logisticregression__C": [0.01, 0.1, 1.0, 10.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fit that did not converge measures nothing
        classifier.fit(training.embeddings, training.kinds)
    return {name: _judge(test.kinds, classifier.predict(test.embeddings)) for name, test in tests.items()}


def _judge(true: np.ndarray, named: np.ndarray) -> dict[str, Any]:
    confusion = {kind: dict.fromkeys(KINDS, 0) for kind in KINDS}
    for kind, answer in zip(true, named, strict=True):
        confusion[KINDS[kind]][KINDS[answer]] += 1
    accuracy = {kind: counts[kind] / sum(counts.values()) for kind, counts in confusion.items()}
    return {"confusion": confusion, "accuracy": accuracy | {"mean": float(np.mean(list(accuracy.values())))}}


def draw_map(pictures: Embedded) -> Figure:
    """Draw embeddings in the plane (t-SNE), once coloured by kind and once by severity.

    Args:
        pictures: what to draw.
    """
    scaled = StandardScaler().fit_transform(pictures.embeddings)
    perplexity = min(30, (len(scaled) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(scaled)
    figure = Figure((13, 6), dpi=100, layout="constrained")
    by_kind, by_severity = figure.subplots(1, 2)
    for kind, name in enumerate(KINDS):
        by_kind.scatter(*places[pictures.kinds == kind].T, s=14, color=f"C{kind}", label=name.replace("_", " "))
    by_kind.legend()
    by_kind.set_title("kind of degradation")
    shades = by_severity.scatter(*places.T, s=14, c=pictures.severities, cmap="viridis")
    figure.colorbar(shades, ax=by_severity)
    by_severity.set_title("severity")
    for axes in (by_kind, by_severity):
        axes.set(xticks=[], yticks=[])
    return figure


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    photographs: Annotated[
        list[Path], typer.Option(exists=True, file_okay=False, help="Clean pictures to train on; repeatable.")
    ],
    clean: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Other clean pictures, to test on.")],
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="A restorer, or what an extractor's training left.")
    ] = SHIPPED,
    limit: Annotated[int, typer.Option(min=5, help="Photographs to train the classifier on, evenly chosen.")] = 300,
    output: Annotated[Path, typer.Option(help="JSON file to write; the map goes beside it.")] = (
        RESULTS / "embedding.json"
    ),
) -> None:
    """Measure linear classification, and rebuilding where that is trained, draw the map, and tell what is reached."""
    extractor, unit = load_extractor(model)
    listed = [photograph.path for photograph in list_photographs(photographs)]
    chosen = [listed[place] for place in np.unique(np.linspace(0, len(listed) - 1, limit).astype(int))]
    tested = [photograph.path for photograph in list_photographs(clean)]
    drawn = embed(extractor, spoil(tested, SEED))
    tests = {"drawn": drawn, "middle": embed(extractor, spoil(tested, SEED, MIDDLE))}
    results = {
        "model": name_weights(model),
        "clean": clean.resolve().name,
        "pictures": {"training": DRAWS * len(chosen), "test": len(tested), "side": SIDE},
        "seed": SEED,
        "severity": {"drawn": DRAWN, "middle": MIDDLE},
        "rebuilding": measure_rebuilding(extractor, unit, spoil(tested, SEED)) if unit is not None else None,
        "probe": probe(embed(extractor, _spoil_often(chosen)), tests),
        "wanted": {"gain": GAIN_WANTED, "accuracy": ACCURACY_WANTED},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    save_figure(draw_map(drawn), output.with_suffix(".png"))
    write_text(output, json.dumps(results, indent=2) + "\n")
    typer.echo(format_columns(embedding_grid(results)))


if __name__ == "__main__":
    app()
