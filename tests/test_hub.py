"""The whole way over a Hub on loopback: commands push, and processes without our packages load what they pushed.

Client and commands are the real ones, in processes of their own; the server is `tests/hub_stand_in.py`.
"""

import json
import shutil
from itertools import count

import build_static
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from benchmarks.chromium import StaticPage, open_chromium, read_requests
from benchmarks.chromium import serving as serving_files
from dpmambair.shipped import ATTRIBUTION, SHIPPED
from modeling_dpmambair import DPMambaIRImageProcessor, DPMambaIRModel, ImageRestorationPipeline, Restorer
from tests.chromium import needs_chromium
from tests.documents import code_blocks
from tests.hub_stand_in import TOKEN, serving
from tests.publishing import ROOT, STAYING, commit_all, copy_checkout, run_python

pytestmark = pytest.mark.slow

MODEL = SHIPPED.relative_to(ROOT).as_posix()
REPO = f"somebody/{SHIPPED.name}"
OURS = ["modeling_dpmambair", "dataset_scripts", "restoration_metrics", "dpmambair", "publish_hub", "training"]
# Nor numba, so that nothing is compiled: tests/modeling_dpmambair/test_remote_code.py loads the code with it.
STRANGER = f"""
import sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {[*OURS, "numba", "llvmlite"]}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent)
"""


@pytest.fixture(scope="module")
def hub():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def checkout(place):
    """A clean checkout of the project as it stands."""
    return copy_checkout(place / "checkout")


@pytest.fixture(scope="module")
def push(hub, place, checkout):
    """Run the command; return what it said."""

    def run(*arguments):
        # The small pictures of the check are restored in plain torch, so that nothing is compiled.
        environment = hub.environment(place / "publisher") | {"DPMAMBAIR_SCAN": "chunked"}
        done = run_python([checkout / "publish_hub.py", *arguments], checkout, environment)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def read(hub, place):
    """Run a script as a stranger, each time in a new folder with empty caches; return its folder and its last line."""
    numbers = count()

    def run(script, *arguments, token=TOKEN):
        folder = place / f"stranger-{next(numbers)}"
        folder.mkdir()
        done = run_python(
            ["-P", "-c", STRANGER + script, *arguments], folder, hub.environment(folder / "home", token=token)
        )
        assert done.returncode == 0, done.stderr
        assert not set(OURS) & {path.name.partition(".")[0] for path in folder.iterdir()}
        return folder, json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def published(hub, push):
    """The model, pushed and tagged."""
    said = push("model", MODEL, REPO, "--tag", "v1.0")
    assert "tagged v1.0" in said
    return hub.repositories["model", REPO]


@pytest.mark.ci
def test_pushed_model_is_private_whole_and_tagged(published, checkout):
    files = published.find("v1.0").files
    assert published.private
    assert files["model.safetensors"] == (checkout / MODEL / "model.safetensors").read_bytes()
    code = {path.name for path in (checkout / "modeling_dpmambair").glob("*.py")} - STAYING
    examples = {f"examples/{path.name}" for path in (checkout / "examples").glob("*.png")}
    rest = {"README.md", "config.json", "preprocessor_config.json", "results/synthetic7_cbsd68.json"}
    assert code | examples | rest | {"docs/images/failures.png"} <= set(files)
    assert files[ATTRIBUTION] == (checkout / MODEL / ATTRIBUTION).read_bytes()
    assert not [name for name in files if name.endswith((".pkl", ".bin", ".pt")) or name.startswith(("tests", "data"))]


LOAD = """
import json, torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
from transformers.utils import logging

logging.disable_progress_bar()
repo, picture, card_lines = sys.argv[1:]
model, found = AutoModel.from_pretrained(repo, trust_remote_code=True, output_loading_info=True)
assert not any(found.values()), found
assert type(model).__module__.startswith("transformers_modules."), type(model)
processor = AutoImageProcessor.from_pretrained(repo, trust_remote_code=True)
degraded = Image.open(picture)
with torch.no_grad():
    restored = model(**processor(images=degraded, return_tensors="pt")).reconstruction
processor.post_process(restored)[0].save("by_model.png")

# The card's own lines, its placeholders filled in.
degraded.save("degraded.png")
exec(card_lines)
assert type(restore.model).__module__.startswith("transformers_modules.")

card = ModelCard.load(repo)
try:
    HfApi(token=False).model_info(repo)
except RepositoryNotFoundError as error:
    hidden = True
print(json.dumps({"card": card.data.to_dict(), "hidden": hidden, "numba": "numba" in sys.modules}))
"""


@pytest.mark.ci
def test_stranger_loads_model_processor_and_pipeline_and_restores_alike(published, read, tmp_path):
    with Image.open(ROOT / "examples/rain.png") as example:
        degraded = example.convert("RGB").crop((0, 0, 96, 64))
    degraded.save(tmp_path / "degraded.png")
    lines = code_blocks("model_card.md", "python")[0].replace(f"OWNER/{SHIPPED.name}", REPO)
    assert 'revision="v1.0"' in lines
    folder, found = read(LOAD, REPO, tmp_path / "degraded.png", lines)
    model = DPMambaIRModel.from_pretrained(ROOT / MODEL)
    expected = ImageRestorationPipeline(model, image_processor=DPMambaIRImageProcessor())(degraded)
    assert np.abs(np.asarray(expected, int) - np.asarray(degraded, int)).max() > 10, "the model must do something"
    for name in ("by_model.png", "restored.png"):
        with Image.open(folder / name) as restored:
            assert np.abs(np.asarray(restored, int) - np.asarray(expected, int)).max() <= 1
    assert found["card"] == ModelCard.load(ROOT / "model_card.md").data.to_dict()
    assert found["card"]["model-index"][0]["results"]
    assert found["hidden"]
    assert not found["numba"]


PINNED = """
import json
from pathlib import Path
from huggingface_hub import hf_hub_download

repo, *revisions = sys.argv[1:]
cards = [Path(hf_hub_download(repo, "README.md", revision=revision)) for revision in revisions]
print(json.dumps([[card.parent.name, card.read_text(encoding="utf-8").endswith("Added.\\n")] for card in cards]))
"""


def test_second_push_sends_what_changed_and_a_pinned_revision_stays(published, push, hub, checkout, read):
    first, uploads = published.find("main"), list(hub.uploads)
    card = checkout / "model_card.md"
    card.write_text(card.read_text(encoding="utf-8") + "Added.\n", encoding="utf-8")
    commit_all(checkout)
    push("model", MODEL, REPO)
    second = published.find("main")
    assert published.commits[-2:] == [first, second]
    assert second.changed == ["README.md"]
    assert hub.uploads == uploads
    assert published.find("v1.0") is first
    _, found = read(PINNED, REPO, "v1.0", first.oid, "main")
    assert found == [[first.oid, False], [first.oid, False], [second.oid, True]]


RUN_SPACE = """
import json, os
from huggingface_hub import snapshot_download

folder = snapshot_download(sys.argv[1], repo_type="space", local_dir="space")
os.chdir(folder)
sys.path.insert(0, folder)
from restoration_page.restorer import Restorer

restorer = Restorer.from_source("MODEL")
restoration = restorer.restore("examples/rain.png")
restorer.at_strength(restoration, 1.0).image.save("../restored.png")
print(json.dumps(os.path.isfile("app.py") and os.path.isfile("requirements.txt")))
""".replace("MODEL", MODEL)


@pytest.mark.ci
def test_space_holds_all_that_its_page_needs(hub, push, read):
    push("space", "somebody/restoration", "--public")
    space = hub.repositories["space", "somebody/restoration"]
    assert (space.sdk, space.private) == ("gradio", False)
    metadata = ModelCard(space.find("main").files["README.md"].decode(), ignore_metadata_errors=True).data
    assert metadata.get("sdk") == "gradio"
    assert {metadata.get("app_file"), f"{MODEL}/{ATTRIBUTION}"} <= set(space.find("main").files)
    folder, is_whole = read(RUN_SPACE, "somebody/restoration", token=None)
    assert is_whole
    with Image.open(folder / "restored.png") as restored, Image.open(ROOT / "examples/rain.png") as degraded:
        assert restored.size == degraded.size
        assert restored.tobytes() != degraded.convert("RGB").tobytes()


DOWNLOAD_SPACE = """
import json
from huggingface_hub import snapshot_download

snapshot_download(sys.argv[1], repo_type="space", local_dir="space")
print(json.dumps(True))
"""


@needs_chromium
def test_static_space_restores_in_a_browser_as_the_package_does(hub, push, read, checkout, tmp_path):
    runtime = checkout / build_static.KEPT.relative_to(ROOT)
    runtime.mkdir(parents=True)
    shutil.copy(build_static.fetch_runtime(), runtime)  # so that the command itself needs no network
    push("space", "somebody/in-the-browser", "--static", "--public")
    space = hub.repositories["space", "somebody/in-the-browser"]
    assert (space.sdk, space.private) == ("static", False)
    files = space.find("main").files
    assert files[f"network/{ATTRIBUTION}"] == (checkout / MODEL / ATTRIBUTION).read_bytes()
    assert not [name for name in files if name.endswith(".py")]
    metadata = ModelCard(files["README.md"].decode(), ignore_metadata_errors=True).data
    assert (metadata.get("sdk"), metadata.get("app_file")) == ("static", "index.html")
    folder, _ = read(DOWNLOAD_SPACE, "somebody/in-the-browser", token=None)
    picture = checkout / "examples" / "rain.png"
    with serving_files(folder / "space", metadata.get("custom_headers")) as server:
        with open_chromium(1440, tmp_path) as driver:
            page = StaticPage(driver, server.origin)
            page.open()
            page.restore(picture)
            assert driver.execute_script("return crossOriginIsolated")
            restored = page.pixels("after")
        asked = read_requests(tmp_path, server.origin)
    expected = Restorer.from_pretrained(ROOT / MODEL, "cpu", "float32")(picture)
    assert np.abs(restored.astype(int) - np.asarray(expected.convert("RGB"), int)).max() <= 1
    assert {url for url in asked if not url.startswith((f"{server.origin}/", "blob:", "data:"))} == set()


READ_DATASET = """
import json
import numpy as np
from datasets import load_dataset

rows = lambda dataset: [[row["file_name"], row["task"], *(int(np.asarray(row[side]).astype(int).sum())
                        for side in ("degraded", "clean"))] for row in dataset]
downloaded = load_dataset(sys.argv[1], split="train", revision=sys.argv[2])
streamed = load_dataset(sys.argv[1], split="train", revision=sys.argv[2], streaming=True)
print(json.dumps([rows(downloaded), rows(streamed)]))
"""


def test_dataset_is_pushed_and_read_whole_and_as_a_stream(hub, push, read, tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        values = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    arguments = ("dataset", "noise_sigma25", tmp_path, "somebody/noisy", "--seed", "3", "--tag")
    push(*arguments, "v1")
    repository = hub.repositories["dataset", "somebody/noisy"]
    assert repository.private
    assert repository.find("v1").changed == ["README.md", "data/train-00000-of-00001.parquet"]
    _, (downloaded, streamed) = read(READ_DATASET, "somebody/noisy", "v1")
    assert downloaded == streamed
    assert [row[:2] for row in downloaded] == [[f"{name}.png", "noise"] for name in ("a", "b", "c")]
    assert all(degraded != clean for *_, degraded, clean in downloaded)
    assert "nothing had changed" in push(*arguments, "v2")


def test_uncommitted_change_stops_the_command_before_it_asks_the_server(hub, checkout, place):
    code = checkout / "modeling_dpmambair" / "cpu_threads_dpmambair.py"
    original = code.read_text(encoding="utf-8")
    code.write_text(original + "\n# changed\n", encoding="utf-8")
    before = len(hub.requests)
    command = [checkout / "publish_hub.py", "model", MODEL, REPO]
    done = run_python(command, checkout, hub.environment(place / "publisher"))
    code.write_text(original, encoding="utf-8")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: files must be committed before they are published, got ")
    assert "cpu_threads_dpmambair.py" in done.stderr
    assert len(hub.requests) == before
