"""Publish to the Hugging Face Hub: a model with its code, the demonstration page as a Space, pairs as a dataset.

`publish_hub.py model FOLDER OWNER/NAME`, `publish_hub.py space OWNER/NAME`, `publish_hub.py dataset NAME DATA
OWNER/NAME`; with `--dry-run` everything is checked, listed and left here. A repository is made private unless
`--public` says otherwise, and holds what was published last: later pushes send what changed and remove what is gone.

A model is refused
- when a file of it, of its code, card, results or examples is not committed: what is published can be found again;
- when no results file names its weights by their checksum, or its card shows other figures than those files;
- when a fresh process without this package cannot load it and restore a picture as the package does.

The access token is huggingface_hub's affair: `hf auth login`, or the variable HF_TOKEN. It is neither read nor shown.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from huggingface_hub import DatasetCard, DatasetCardData, HfApi, ModelCard
from PIL import Image
from transformers.utils import logging

import modeling_dpmambair
from dpmambair.files import hash_files
from dpmambair.shipped import ATTRIBUTION, SHIPPED
from modeling_dpmambair import ImageRestorationPipeline, Restorer
from restoration_metrics.model_index import is_evaluation, list_eval_results, measured_weights

ROOT = Path(__file__).resolve().parent
EXAMPLES, DEMO = ROOT / "examples", ROOT / "demo"
RESULTS = ROOT / "benchmarks" / "results"
# What the page looks for beside itself (demo/app.py).
PAGE_MODEL = SHIPPED.relative_to(ROOT).as_posix()
# Of a trained folder, beside weights and configurations. Checkpoints stay here: they hold pickled states.
RECORDS = (
    *("recipe.json", "log.jsonl", "loss.png", "training/**/*.json", "training/**/*.jsonl", "training/**/*.png"),
    ATTRIBUTION,
)
METADATA = ("license", "library_name", "pipeline_tag", "tags", "datasets", "metrics")
STATUS = ("status", "--porcelain", "--ignored", "--untracked-files=all", "--")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")

# Runs where the package cannot be imported, as for most who load a published model. Nor can numba: that is the least
# that a user has, and leaves nothing to compile.
STRANGER = """
import sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {"modeling_dpmambair", "restoration_metrics", "numba", "llvmlite"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
from transformers import AutoImageProcessor, AutoModel, pipeline

folder, degraded, restored = sys.argv[1:]
model, found = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
if wrong := [name for names in found.values() for name in names]:
    sys.exit(f"weights do not fit: {wrong[:3]}")
AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
pipeline("image-restoration", model=folder, trust_remote_code=True, device="cpu")(degraded).save(restored)
"""


@dataclass(frozen=True)
class Target:
    """Where to publish, and how.

    Attributes:
        repo: `OWNER/NAME`.
        kind: of the repository.
        is_public: whether anybody may read it.
        revision: the branch; made when it is new.
        tag: names the published state, once and for all; None for no name.
        deletes: patterns of files to remove when they are no longer published.
        sdk: of a Space.
    """

    repo: str
    kind: Literal["model", "dataset", "space"]
    is_public: bool
    revision: str
    tag: str | None
    deletes: str = "*"
    sdk: Literal["gradio", "static"] = "gradio"


@dataclass
class Bundle:
    """What is to be published.

    Attributes:
        folder: a copy of the repository as it will be.
        sources: the files that it was made of.
    """

    folder: Path
    sources: set[Path] = field(default_factory=set)

    def add(self, source: Path, name: str) -> None:
        """Take a file.

        Args:
            source: where it is.
            name: where it will be in the repository.
        """
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        self.sources.add(source.resolve())

    def list_files(self) -> list[tuple[str, int]]:
        """Return names and sizes in bytes, sorted."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in files]


def check_committed(sources: Collection[Path]) -> None:
    """Make sure that every file is committed as it is, each in the repository that it lies in.

    Args:
        sources: files.

    Raises:
        ValueError: one is changed, untracked, ignored, or outside of any repository.
    """
    dirty: list[str] = []
    for folder in sorted({source.parent for source in sources}):
        names = sorted(source.name for source in sources if source.parent == folder)
        command = ["git", "--literal-pathspecs", "-C", str(folder), *STATUS, *names]
        status = subprocess.run(command, capture_output=True, text=True)
        if status.returncode:  # no repository
            dirty += [str(folder / name) for name in names]
        dirty += [line[3:] for line in status.stdout.splitlines()]
    if dirty:
        listed = ", ".join(dirty[:5]) + (f" and {len(dirty) - 5} more" if len(dirty) > 5 else "")
        raise ValueError(f"files must be committed before they are published, got changes in {listed}; commit them")


def stage_model(bundle: Bundle, folder: Path, place: str = "") -> Restorer:
    """Take a trained model with its code, so that it loads without this package.

    Args:
        bundle: what is to be published.
        folder: what `save_pretrained` wrote, of the model and of the processor.
        place: folder in the repository, ending in a slash; empty for its top.

    Returns:
        The model.

    Raises:
        ValueError: the folder does not load, or lacks weights.
    """
    logging.disable_progress_bar()
    restorer = Restorer.from_pretrained(folder, device="cpu", dtype="float32")
    ImageRestorationPipeline(restorer.model, image_processor=restorer.processor).save_pretrained(bundle.folder / place)
    # The weights are published as they were measured, to the byte, not as this version of the library writes them.
    for written in (bundle.folder / place).glob("*.safetensors*"):
        written.unlink()
    for own in sorted(folder.glob("*.safetensors*")):
        bundle.add(own, place + own.name)
    code = Path(modeling_dpmambair.__file__).resolve().parent.glob("*.py")
    bundle.sources |= {(folder / name).resolve() for name in ("config.json", "preprocessor_config.json")} | set(code)
    return restorer


def find_results(folder: Path) -> dict[Path, dict[str, Any]]:
    """Find the results files that were measured with these weights.

    Args:
        folder: of a trained model.

    Returns:
        Content by path, sorted by name.

    Raises:
        ValueError: there is no evaluation among them, so nobody knows what the weights do.
    """
    checksum = hash_files(sorted(folder.glob("*.safetensors")))
    contents = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    measured = {path: each for path, each in contents.items() if measured_weights(each) == checksum}
    if not any(is_evaluation(content) for content in measured.values()):
        raise ValueError(
            f"`folder` must be measured before it is published, got weights that no evaluation in {RESULTS} names "
            f"({checksum[:12]}...); run evaluate_accelerate.py on {folder}"
        )
    return measured


def stage_card(bundle: Bundle, path: Path, results: Iterable[dict[str, Any]]) -> None:
    """Take a model card, with the files that it links to and shows.

    Args:
        bundle: what is to be published.
        path: the card, Markdown with metadata.
        results: content of the results files of these weights.

    Raises:
        ValueError: metadata are missing, figures are not those of the results, or a linked file is not there.
    """
    card = ModelCard.load(path)
    if absent := [name for name in METADATA if not card.data.get(name)]:
        raise ValueError(f"`card` must have the metadata {', '.join(METADATA)}, got none for {absent}; add them")
    expected = [entry for content in results if is_evaluation(content) for entry in list_eval_results(content)]
    if card.data.get("eval_results") != expected:
        raise ValueError(
            f"`card` must show the figures of these weights, got others in {path}; run python -m benchmarks.tables"
        )
    bundle.add(path, "README.md")
    for name in sorted(set(LINK.findall(card.text))):
        if not (path.parent / name).is_file():
            raise ValueError(f"`card` must link to files that exist, got {name}; correct the link in {path}")
        bundle.add(path.parent / name, name)


def check_stranger(folder: Path, restorer: Restorer) -> None:
    """Load a model in a fresh process that has no package of ours, and compare a restoration.

    Args:
        folder: the model as it will be published.
        restorer: the same model in the package.

    Raises:
        ValueError: it does not load there, or restores differently.
    """
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    degraded = Image.fromarray(values).resize((64, 48), Image.Resampling.BICUBIC)
    with tempfile.TemporaryDirectory() as elsewhere:
        given, got = (str(Path(elsewhere, name)) for name in ("degraded.png", "restored.png"))
        degraded.save(given)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
        environment |= {"HF_HOME": elsewhere, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-I", "-c", STRANGER, str(folder), given, got]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise ValueError(f"`folder` must load without this package, got: {reason}; mend the code or the weights")
        with Image.open(got) as restored:
            difference = np.abs(np.asarray(restored, np.int16) - np.asarray(restorer(degraded), np.int16)).max()
    if difference > 1:
        raise ValueError(f"`folder` must restore alike elsewhere, got {difference} of 255 apart; mend the code")


def stage_examples(bundle: Bundle) -> None:
    """Take the example pictures, and the text that names their sources and licences.

    Args:
        bundle: what is to be published.
    """
    for path in (*sorted(EXAMPLES.glob("*.png")), EXAMPLES / "README.md"):
        bundle.add(path, f"examples/{path.name}")


def publish(bundle: Bundle, target: Target, *, dry_run: bool) -> None:
    """Say what will be published, and push it.

    Args:
        bundle: what is to be published.
        target: where.
        dry_run: push nothing, and ask no server.

    Raises:
        ValueError: the tag is taken, or the repository is public and should not be, or the other way round.
    """
    files = bundle.list_files()
    for name, size in files:
        typer.echo(f"{size:>13,}  {name}")
    visibility = "public" if target.is_public else "private"
    total = f"{len(files)} files, {sum(size for _, size in files):,} bytes"
    typer.echo(f"{total}, for the {visibility} {target.kind} {target.repo}, revision {target.revision}")
    if dry_run:
        return
    api, place = HfApi(), {"repo_id": target.repo, "repo_type": target.kind}
    sdk = target.sdk if target.kind == "space" else None
    api.create_repo(**place, private=not target.is_public, exist_ok=True, space_sdk=sdk)
    if api.repo_info(**place).private == target.is_public:
        raise ValueError(f"`--public` must fit the repository, got {visibility} for {target.repo}; change one of them")
    if target.tag in [tag.name for tag in api.list_repo_refs(**place).tags]:
        raise ValueError(f"`--tag` must be new, got {target.tag}; choose another name")
    if target.revision != "main":
        api.create_branch(**place, branch=target.revision, exist_ok=True)
    place["revision"] = target.revision
    before, message = api.repo_info(**place).sha, f"Publish {describe_origin()}"
    done = api.upload_folder(
        **place, folder_path=bundle.folder, commit_message=message, delete_patterns=target.deletes
    )
    typer.echo("nothing had changed" if done.oid == before else f"published: {done.commit_url}")
    if target.tag:
        api.create_tag(**place | {"revision": done.oid}, tag=target.tag)
        typer.echo(f"tagged {target.tag}")


def describe_origin() -> str:
    """Name the commit of this checkout, for the message of the push."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    return f"commit {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}"


@contextmanager
def _preparing() -> Iterator[Bundle]:
    """Give an empty bundle; whatever fails ends the command with one line."""
    with tempfile.TemporaryDirectory(prefix="publishing-") as folder:
        try:
            yield Bundle(Path(folder, "repository"))
        except Exception as error:  # the client's transport has errors of its own, no concern of other packages
            typer.echo(f"error: {' '.join(str(error).split()) or type(error).__name__}", err=True)
            raise typer.Exit(1) from error


Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made when it is new.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, list the files with their sizes, and push nothing.")]
Public = Annotated[bool, typer.Option("--public", help="Let anybody read it; without this it is private.")]
Revision = Annotated[str, typer.Option(help="The branch to push to; made when it is new.")]
Tag = Annotated[str | None, typer.Option(help="Name the published state, such as v1.0.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Publish to the Hugging Face Hub.")


@app.command()
def model(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the trained model.")],
    repo: Repo,
    card: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The model card.", show_default="model_card.md")
    ] = (ROOT / "model_card.md"),
    dry_run: DryRun = False,
    public: Public = False,
    revision: Revision = "main",
    tag: Tag = None,
) -> None:
    """Publish a model: weights, configuration, processor, code, card, results, examples, records of its training."""
    with _preparing() as bundle:
        results = find_results(folder)
        restore = stage_model(bundle, folder)
        stage_card(bundle, card, results.values())
        stage_examples(bundle)
        for path in results:
            for each in filter(Path.is_file, (path, path.with_suffix(".png"))):
                bundle.add(each, f"results/{each.name}")
        for path in (path for pattern in RECORDS for path in sorted(folder.glob(pattern))):
            bundle.add(path, path.relative_to(folder).as_posix())
        check_committed(bundle.sources)
        check_stranger(bundle.folder, restore)
        publish(bundle, Target(repo, "model", public, revision, tag), dry_run=dry_run)


def stage_page(bundle: Bundle) -> None:
    """Take the page that a server makes, with the shipped model, its code, and the example pictures.

    Args:
        bundle: what is to be published.

    Raises:
        ValueError: the model does not load without this package.
    """
    restore = stage_model(bundle, SHIPPED, f"{PAGE_MODEL}/")
    for path in SHIPPED.glob(ATTRIBUTION):
        bundle.add(path, f"{PAGE_MODEL}/{path.name}")
    for path in sorted(path for path in DEMO.rglob("*") if path.is_file()):
        # What builds the static page needs a checkout.
        if not {"__pycache__", "static", "build_static.py"} & set(path.parts):
            bundle.add(path, path.relative_to(DEMO).as_posix())
    stage_examples(bundle)
    check_committed(bundle.sources)
    check_stranger(bundle.folder / PAGE_MODEL, restore)


def stage_static_page(bundle: Bundle) -> None:
    """Build the page that restores in the browser; it is exported and checked anew.

    Args:
        bundle: what is to be published.

    Raises:
        ValueError: something that it is made of is not committed, or it cannot be built.
    """
    parts = [*(DEMO / "static").iterdir(), *EXAMPLES.glob("*.png"), EXAMPLES / "README.md"]
    check_committed([*parts, *SHIPPED.glob("*.safetensors"), *SHIPPED.glob("*.json"), *SHIPPED.glob(ATTRIBUTION)])
    command = [sys.executable, "-m", "demo.build_static", str(bundle.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("error: ")[2])


@app.command()
def space(
    repo: Repo,
    static: Annotated[
        bool, typer.Option("--static", help="The page that restores in the visitor's browser; no machine runs.")
    ] = False,
    dry_run: DryRun = False,
    public: Public = False,
    revision: Revision = "main",
    tag: Tag = None,
) -> None:
    """Publish the demonstration page with the shipped model, its code, and the example pictures."""
    with _preparing() as bundle:
        find_results(SHIPPED)
        if static:
            stage_static_page(bundle)
        else:
            stage_page(bundle)
        target = Target(repo, "space", public, revision, tag, sdk="static" if static else "gradio")
        publish(bundle, target, dry_run=dry_run)


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="A corpus, such as rain100l, or a recipe, such as noise_sigma25.")],
    data_dir: Annotated[Path, typer.Argument(metavar="DATA", help="The corpus as unpacked, or clean photographs.")],
    repo: Repo,
    licence: Annotated[
        str | None, typer.Option("--license", help="Terms of the pictures; required with --public.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train or test, of a corpus.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of a recipe's draws.")] = None,
    dry_run: DryRun = False,
    public: Public = False,
    revision: Revision = "main",
    tag: Tag = None,
) -> None:
    """Publish pairs as Parquet files, which plain `datasets.load_dataset` reads; other splits there stay."""
    from dataset_scripts import CORPORA, load_restoration_dataset
    from dataset_scripts.publishing import write_parquet

    with _preparing() as bundle:
        if public and licence is None:
            raise ValueError(
                "`--license` must be given with --public, got none; state that the pictures may be passed on"
            )
        check_committed(list((ROOT / "dataset_scripts").glob("*.py")))
        given = {"split": split} | ({} if seed is None else {"seed": seed})
        pairs = load_restoration_dataset(name, data_dir, strict=True, **given)
        write_parquet(pairs, bundle.folder, str(pairs.split))
        corpus = CORPORA.get(name)
        terms = licence or (corpus.licence if corpus else "not stated")
        # The Hub wants a licence's name in lower case without spaces; the card's text has the terms as they are.
        slug = re.sub(r"[^a-z0-9.]+", "-", terms.lower()).strip("-")
        data = DatasetCardData(
            license="other", license_name=slug, pretty_name=name, task_categories=["image-to-image"]
        )
        origin = (
            f"From {corpus.source}; cite {corpus.citation}." if corpus else "Clean photographs, degraded by recipe."
        )
        text = f"# {name}\n\nPairs of degraded and clean pictures. {origin} Terms: {terms}.\n"
        DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(bundle.folder / "README.md")
        target = Target(repo, "dataset", public, revision, tag, deletes=f"data/{pairs.split}-*")
        publish(bundle, target, dry_run=dry_run)


if __name__ == "__main__":
    app()
