"""Publishing: what is refused, what is sent, and that a second push sends only what changed.

The real client talks to the stand-in. `tests/test_hub.py` goes the whole way, in processes of their own.
"""

import hashlib
import json
import subprocess
from functools import partial

import pytest
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import publish_hub
from publish_hub import (
    Bundle,
    Target,
    check_committed,
    check_stranger,
    find_results,
    publish,
    stage_card,
    stage_examples,
    stage_model,
)
from restoration_metrics.model_index import list_eval_results
from tests.hub_stand_in import TOKEN, serving
from tests.publishing import commit_all
from tests.restoring import save_random_model

# The client sends large files through a form of call that its own transport advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

ROOT_OF_PAGE = publish_hub.DEMO / "static"
METADATA = {name: ["psnr"] for name in ("tags", "datasets", "metrics")}


@pytest.fixture
def hub(monkeypatch):
    """A stand-in that the client of this process talks to, with the token."""
    if not (publish_hub.ROOT / ".git").exists():
        pytest.skip("a push names the commit, which a source distribution does not have")
    with serving() as server:
        for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(publish_hub, "HfApi", partial(HfApi, endpoint=server.url, token=TOKEN))
        yield server


@pytest.fixture
def bundle(tmp_path):
    """A model's repository in small."""
    folder = tmp_path / "repository"
    for name, text in {"README.md": "---\nlicense: mit\n---\n", "model.safetensors": "weights", "a/b.py": "1"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Bundle(folder)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A folder of results whose evaluation names weights `abc`, and that evaluation."""
    scores = {method: {"psnr": 1.0, "ssim": 1.0} for method in ("degraded", "small")}
    evaluation = {
        "benchmark": {"name": "synthetic7", "severity": 0.5, "seed": 1, "clean": "photographs"},
        "model": {"name": "small", "weights_sha256": hashlib.sha256(b"weights").hexdigest()},
        "sets": [{"name": "rain", "pairs": 2, "scores": scores}],
        "overall": scores,
    }
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "counts.json").write_text("[1]")
    (folder / "others.json").write_text(json.dumps(evaluation | {"model": {"weights_sha256": "0"}}))
    (folder / "quality.json").write_text(json.dumps(evaluation))
    monkeypatch.setattr(publish_hub, "RESULTS", folder)
    return evaluation


def model_target(**changes):
    settings = {"repo": "org/small", "kind": "model", "is_public": False, "revision": "main", "tag": None} | changes
    return Target(**settings)


def write_card(path, evaluation, text="Text.\n", **changes):
    data = {"license": "mit", "library_name": "x", "pipeline_tag": "y", **METADATA} | changes
    card = ModelCard(f"---\n{json.dumps(data)}\n---\n\n{text}")
    card.data.model_name, card.data.eval_results = "small", list_eval_results(evaluation)
    card.save(path)
    return path


# Pushing


def test_repository_is_private_and_holds_what_was_published(hub, bundle, capsys):
    publish(bundle, model_target(), dry_run=False)
    assert hub.repositories["model", "org/small"].private
    head = hub.head("model", "org/small")
    assert head.changed == ["README.md", "a/b.py", "model.safetensors"]
    assert {name: head.files[name] for name in head.changed} == {
        name: (bundle.folder / name).read_bytes() for name in head.changed
    }
    assert TOKEN not in "".join(capsys.readouterr())


def test_public_repository_must_be_asked_for(hub, bundle):
    publish(bundle, model_target(is_public=True), dry_run=False)
    assert not hub.repositories["model", "org/small"].private
    with pytest.raises(ValueError, match="^`--public` must fit the repository, got private for org/small; change one"):
        publish(bundle, model_target(), dry_run=False)


def test_second_push_sends_what_changed_and_removes_what_is_gone(hub, bundle, capsys):
    publish(bundle, model_target(), dry_run=False)
    (bundle.folder / "README.md").write_text("---\nlicense: mit\n---\nMore.\n")
    (bundle.folder / "a/b.py").unlink()
    publish(bundle, model_target(), dry_run=False)
    head = hub.head("model", "org/small")
    assert head.changed == ["README.md", "a/b.py"]
    assert set(head.files) == {".gitattributes", "README.md", "model.safetensors"}
    assert len(hub.uploads) == 1
    publish(bundle, model_target(), dry_run=False)
    assert hub.head("model", "org/small") is head
    assert "nothing had changed" in capsys.readouterr().out


def test_tag_names_one_state_for_good(hub, bundle):
    publish(bundle, model_target(tag="v1"), dry_run=False)
    (bundle.folder / "new.txt").write_text("new")
    with pytest.raises(ValueError, match="^`--tag` must be new, got v1; choose another name$"):
        publish(bundle, model_target(tag="v1"), dry_run=False)
    publish(bundle, model_target(tag="v2"), dry_run=False)
    repository = hub.repositories["model", "org/small"]
    assert [repository.find(tag) for tag in ("v1", "v2")] == repository.commits[1:]


def test_branch_is_made_and_main_stays(hub, bundle):
    publish(bundle, model_target(revision="next/one"), dry_run=False)
    repository = hub.repositories["model", "org/small"]
    assert list(repository.find("main").files) == [".gitattributes"]
    assert "model.safetensors" in repository.find("next/one").files


def test_push_of_one_split_leaves_the_others(hub, bundle):
    target = model_target(kind="dataset", deletes="data/test-*")
    for split in ("train", "test"):
        (bundle.folder / "data").mkdir(exist_ok=True)
        (bundle.folder / f"data/{split}-0.parquet").write_text(split)
        publish(bundle, target, dry_run=False)
        (bundle.folder / f"data/{split}-0.parquet").unlink()
    files = hub.head("dataset", "org/small").files
    assert {"data/train-0.parquet", "data/test-0.parquet"} <= set(files)


@pytest.mark.parametrize("sdk", ["gradio", "static"])
def test_space_is_made_for_its_kind_of_page(hub, bundle, sdk):
    publish(bundle, model_target(kind="space", sdk=sdk), dry_run=False)
    assert hub.repositories["space", "org/small"].sdk == sdk


def test_static_page_is_built_of_what_is_committed_alone(monkeypatch, tmp_path):
    def refuse(sources):
        assert ROOT_OF_PAGE / "index.html" in sources
        assert publish_hub.SHIPPED / "model.safetensors" in sources
        raise ValueError("files must be committed")

    monkeypatch.setattr(publish_hub, "check_committed", refuse)
    with pytest.raises(ValueError, match="must be committed"):
        publish_hub.stage_static_page(Bundle(tmp_path / "page"))
    assert not (tmp_path / "page").exists()


def test_dry_run_lists_files_with_sizes_and_asks_no_server(hub, bundle, capsys):
    publish(bundle, model_target(), dry_run=True)
    assert capsys.readouterr().out.splitlines() == [
        "           21  README.md",
        "            1  a/b.py",
        "            7  model.safetensors",
        "3 files, 29 bytes, for the private model org/small, revision main",
    ]
    assert hub.requests == []


def test_missing_credentials_end_in_one_line_on_stderr(hub, bundle, monkeypatch, capsys):
    monkeypatch.setattr(publish_hub, "HfApi", partial(HfApi, endpoint=hub.url, token=False))
    with pytest.raises(publish_hub.typer.Exit) as ended, publish_hub._preparing():
        publish(bundle, model_target(), dry_run=False)
    said = capsys.readouterr().err
    assert ended.value.exit_code == 1
    assert said.startswith("error: ")
    assert "401" in said
    assert said.count("\n") == 1
    assert hub.repositories == {}


# Committed


def test_committed_files_of_several_repositories_pass(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("committed")
        commit_all(tmp_path / name)
    (tmp_path / "one" / "untracked, not published").write_text("")
    check_committed([tmp_path / "one/file", tmp_path / "two/file"])


def change(folder):
    (folder / "file").write_text("changed")
    return "file"


def stage(folder):
    change(folder)
    subprocess.run(["git", "add", "file"], cwd=folder, check=True)
    return "file"


def leave_untracked(folder):
    (folder / "new").write_text("new")
    return "new"


def ignore(folder):
    (folder / "weights.bin").write_text("ignored")
    return "weights.bin"


def leave_repository(folder):
    (folder.parent / "outside").write_text("outside")
    return "../outside"


@pytest.mark.parametrize("spoil", [change, stage, leave_untracked, ignore, leave_repository])
def test_file_that_is_not_committed_is_refused(tmp_path, spoil):
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "file").write_text("committed")
    (folder / ".gitignore").write_text("*.bin\n")
    commit_all(folder)
    path = (folder / spoil(folder)).resolve()
    with pytest.raises(ValueError, match=rf"^files must be committed .*, got changes in .*{path.name}; commit them$"):
        check_committed([folder / "file", path])


def test_long_list_of_changes_is_cut(tmp_path):
    files = [tmp_path / f"{number}" for number in range(7)]
    for path in files:
        path.write_text("")
    with pytest.raises(ValueError, match="/4 and 2 more; commit them$"):
        check_committed(files)


# Measured, and shown


def test_results_are_found_by_the_checksum_of_the_weights(bundle, measured):
    assert {path.name: content for path, content in find_results(bundle.folder).items()} == {"quality.json": measured}


def test_unmeasured_weights_are_refused(bundle, measured):
    (bundle.folder / "model.safetensors").write_text("other weights")
    with pytest.raises(ValueError, match=r"^`folder` must be measured .*, got weights that no evaluation .* names"):
        find_results(bundle.folder)


def test_weights_that_only_another_kind_of_results_names_are_refused(bundle, measured):
    path = publish_hub.RESULTS / "quality.json"
    path.write_text(json.dumps({"model": measured["model"]}))
    with pytest.raises(ValueError, match=r"^`folder` must be measured"):
        find_results(bundle.folder)


def test_card_is_taken_with_the_files_that_it_links_to(bundle, measured, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/one.png").write_bytes(b"picture")
    text = "![One](images/one.png) [site](https://example.org) [above](#top) [mail](mailto:a@example.org)\n"
    path = write_card(tmp_path / "card.md", measured, text)
    stage_card(bundle, path, [measured, {"other": "results"}])
    assert ModelCard.load(bundle.folder / "README.md").data.eval_results == list_eval_results(measured)
    assert bundle.sources == {path, tmp_path / "images/one.png"}
    assert (bundle.folder / "images/one.png").read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["license", "library_name", "pipeline_tag", *METADATA])
def test_card_without_metadata_is_refused(bundle, measured, tmp_path, name):
    path = write_card(tmp_path / "card.md", measured, **{name: None})
    with pytest.raises(ValueError, match=rf"^`card` must have the metadata .*, got none for \['{name}'\]; add them$"):
        stage_card(bundle, path, [measured])


def test_card_with_other_figures_is_refused(bundle, measured, tmp_path):
    path = write_card(tmp_path / "card.md", measured)
    measured["sets"][0]["scores"]["small"]["psnr"] += 0.01
    with pytest.raises(
        ValueError, match="^`card` must show the figures of these weights, got others in .*card.md; run"
    ):
        stage_card(bundle, path, [measured])


def test_card_with_a_dead_link_is_refused(bundle, measured, tmp_path):
    path = write_card(tmp_path / "card.md", measured, "[gone](gone.md)\n")
    with pytest.raises(ValueError, match="^`card` must link to files that exist, got gone.md; correct the link in"):
        stage_card(bundle, path, [measured])


# Loaded


def test_staged_model_carries_its_code_and_its_own_bytes(tmp_path):
    folder = save_random_model(tmp_path / "model")
    staged = Bundle(tmp_path / "repository")
    stage_model(staged, folder, "below/")
    names = {name for name, _ in staged.list_files()}
    assert {"below/modeling_dpmambair.py", "below/pipeline_dpmambair.py", "below/model.safetensors"} <= names
    assert "image-restoration" in json.loads((staged.folder / "below/config.json").read_text())["custom_pipelines"]
    assert (staged.folder / "below/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert {folder / "config.json", folder / "preprocessor_config.json"} <= staged.sources


def test_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^cannot load .* on device cpu: "):
        stage_model(Bundle(tmp_path / "repository"), tmp_path)


def test_folder_with_missing_weights_is_refused(tmp_path):
    folder = save_random_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["network.conv_in.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="weights must be complete, got 1 missing; save the model again$"):
        stage_model(Bundle(tmp_path / "repository"), folder)


@pytest.mark.slow
def test_model_whose_published_code_is_broken_or_differs_is_refused(tmp_path):
    folder = save_random_model(tmp_path / "model")
    staged = Bundle(tmp_path / "repository")
    restorer = stage_model(staged, folder)
    check_stranger(staged.folder, restorer)
    processor = staged.folder / "image_processing_dpmambair.py"
    processor.write_text(f"import package_that_nobody_has\n{processor.read_text()}")
    with pytest.raises(ValueError, match="^`folder` must load without this package, got: .*package_that_nobody_has"):
        check_stranger(staged.folder, restorer)
    restorer.model.requires_grad_(False).network.conv_in.weight.mul_(3)
    stage_model(staged, folder)
    with pytest.raises(ValueError, match="^`folder` must restore alike elsewhere, got [0-9]+ of 255 apart; mend"):
        check_stranger(staged.folder, restorer)


def test_examples_come_with_the_text_of_their_licences(bundle):
    stage_examples(bundle)
    names = {name for name, _ in bundle.list_files()}
    assert {"examples/README.md", "examples/rain.png"} <= names


def test_public_dataset_needs_a_licence():
    arguments = ["dataset", "rain100l", "somewhere", "org/rain100l", "--public"]
    result = CliRunner().invoke(publish_hub.app, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: `--license` must be given with --public, got none; state")
