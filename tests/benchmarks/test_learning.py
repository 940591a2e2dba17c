"""The comparison of how fast networks learn: small networks, a few steps, pictures of its own."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from benchmarks import learning, learning_pictures, learning_run
from benchmarks.learning_networks import (
    LOSSES,
    build_network,
    compute_loss,
    count_cost,
    parse_candidate,
    read_candidates,
    restore,
)
from benchmarks.learning_pictures import (
    Batch,
    Drawer,
    Patches,
    Validation,
    draw_validation,
    find_patches,
    with_patches,
)
from benchmarks.learning_run import Budget, Job, Run, run, score
from benchmarks.learning_table import (
    REFERENCE,
    group_changes,
    learning_grid,
    name_change,
    render_changes,
    render_learning,
)
from dataset_scripts import KINDS
from dpmambair.shipped import SHIPPED
from training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
PEER = {
    "class": "spandrel.architectures.NAFNet.__arch.NAFNet_arch.NAFNet",
    "arguments": {"width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]},
}
ORIGIN = {"command": "python -m benchmarks.learning", "commit": "0" * 40}
SMALL = {"dim": 4, "d_state": 2, "prompt_dim": 2, "refinement_depth": 0}
TRAINING = {"batch_size": 2, "patch_schedule": [[0, 16]]}
CANDIDATES = {
    "ours": {"network": {"config": "configuration/model/tiny.json", "overrides": SMALL}, "training": TRAINING},
    "peer": {"network": PEER, "loss": "psnr", "training": TRAINING | {"lr": 1e-2, "betas": [0.9, 0.9]}},
    "told": {"extends": "peer", "network": {"film": "NAFBlock"}, "training": {"lr": 1e-3}},
    "labelled": {"extends": "ours", "network": {"overrides": {"embedding_source": "class_label"}}},
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small files and pictures, from the repository's root."""
    monkeypatch.chdir(ROOT)
    for module, name, value in [
        (learning_pictures, "CHUNK", 4),
        (learning_pictures, "PROBED", 2),
        (learning, "VALIDATION_PICTURES", 2),
        (learning, "VALIDATION_SIDE", 24),
        (learning_run, "INFERENCE_SIDE", 32),
        (learning_run, "INFERENCE_REPEATS", 1),
    ]:
        monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(6):
        coarse = Image.fromarray(np.random.default_rng(seed).integers(256, size=(4, 5, 3), dtype=np.uint8))
        coarse.resize((40, 32), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def recipe(photographs):
    return Recipe.from_dict({"data": {"clean_dirs": [str(photographs)], "held_out_every": 3}})


@pytest.fixture
def prepared(recipe, tmp_path):
    """Jobs of four steps for some candidates; their folders by name."""

    def prepare(*names, seeds=(0,), unit="steps", amount=4):
        path = tmp_path / "candidates.json"
        path.write_text(json.dumps(CANDIDATES))
        work = tmp_path / "work"
        validation = str(draw_validation(recipe, 2, 24, work))
        base = Job("", {}, 0, Budget(unit, amount), 2, recipe.to_dict(), "", validation, str(SHIPPED), ORIGIN)
        known = read_candidates(path)
        return learning.prepare([known[name] for name in names], seeds, base, work)

    return prepare


def command(photographs, tmp_path, *arguments):
    candidates, recipe = tmp_path / "candidates.json", tmp_path / "recipe.json"
    candidates.write_text(json.dumps(CANDIDATES))
    recipe.write_text(json.dumps({"data": {"held_out_every": 3}}))
    options = {
        "--clean": photographs, "--candidates": candidates, "--recipe": recipe, "--extractor": SHIPPED,
        "--work": tmp_path / "work", "--output": tmp_path / "results" / "learning.json", "--validations": 2,
    }  # fmt: skip
    words = [*arguments, *(part for option in options.items() for part in option)]
    return CliRunner().invoke(learning.app, [*map(str, words)])


@pytest.mark.ci
@pytest.mark.slow
def test_command_trains_all_and_adds_to_results_table_and_plot(photographs, tmp_path):
    first = command(photographs, tmp_path, "ours", "told", "--steps", 2)
    assert first.exit_code == 0, first.output
    records = sorted(tmp_path.glob("work/runs/*/record.json"))
    written = [path.stat().st_mtime_ns for path in records]
    second = command(photographs, tmp_path, "--steps", 2)
    assert second.exit_code == 0, second.output
    assert [path.stat().st_mtime_ns for path in records] == written  # finished runs are kept
    results = json.loads((tmp_path / "results" / "learning.json").read_text())
    assert [one["candidate"] for one in results["records"]] == ["labelled", "ours", "peer", "told"]
    for one in results["records"]:
        assert set(one["gain"]) == set(KINDS)
        assert one["mean"] == pytest.approx(np.mean(list(one["gain"].values())))
        assert [point["steps"] for point in one["curve"]] == [1, 2]
        assert one["pixels_per_second"] == pytest.approx(2 * 16**2 / one["step_seconds"])
        assert one["step_seconds"] == pytest.approx(one["minutes"] * 60 / 2)
    assert [one["scan_flops"] > 0 for one in results["records"]] == [True, True, False, False]
    assert len({tuple(one["pictures"]) for one in results["records"]}) == 1
    assert all(one["command"].startswith("python -m benchmarks.learning") for one in results["records"])
    assert "peer" in second.stdout
    with Image.open(tmp_path / "results" / "learning.png") as picture:
        assert picture.size == (840, 600)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["peer"], "`minutes` or `steps` must be given"),
        (["peer", "--minutes", 1, "--steps", 1], "`minutes` or `steps` must be given"),
        (["peer", "--minutes", 0], "`minutes` or `steps` must be given"),
        (["peer", "--steps", 1, "--seeds", "one"], "`seeds` must be whole numbers from 0, got 'one'; write them as"),
        (["rival", "--steps", 1], "`candidate` must be one of ours, peer, told, labelled"),
    ],
)
def test_command_refuses_what_it_cannot_do(arguments, text, photographs, tmp_path):
    result = command(photographs, tmp_path, *arguments)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.slow  # a process imports everything anew
def test_processes_pinned_to_cores_reach_the_same(photographs, tmp_path, prepared):
    result = command(photographs, tmp_path, "peer", "--steps", 2, "--cores", "0")
    assert result.exit_code == 0, result.output
    (record,) = json.loads((tmp_path / "results" / "learning.json").read_text())["records"]
    (folder,) = prepared("peer", amount=2)
    (folder / "record.json").unlink()
    (folder / "state.pt").unlink()
    again = run(folder)
    assert again["gain"] == pytest.approx(record["gain"], abs=1e-3)


@pytest.mark.slow  # as above
def test_failed_process_is_reported(prepared):
    (folder,) = prepared("peer")
    (folder / "job.json").write_text("{}")
    (fault,) = learning.work_through([folder], [0])
    assert "exit status 1; see" in fault
    assert "KeyError" in (folder / "log.txt").read_text()


def without_times(record):
    timed = ("minutes", "step_seconds", "pixels_per_second", "megapixel_seconds", "memory")
    curve = [{key: value for key, value in point.items() if key != "minutes"} for point in record["curve"]]
    return {key: value for key, value in record.items() if key not in timed} | {"curve": curve}


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "told"])
def test_resumed_run_equals_straight_one(name, prepared, monkeypatch):
    (folder,) = prepared(name)
    straight = run(folder)
    (folder / "record.json").unlink()
    (folder / "state.pt").unlink()
    step = Run._step

    def interrupt(self):
        if self.steps == 3:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Run, "_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    monkeypatch.setattr(Run, "_step", step)
    assert torch.load(folder / "state.pt", weights_only=True)["steps"] == 2  # one interval is lost
    assert without_times(run(folder)) == without_times(straight)


def test_time_is_a_budget_too(prepared):
    (folder,) = prepared("peer", unit="minutes", amount=1e-3)
    record = run(folder)
    assert record["minutes"] >= 1e-3
    assert record["steps"] == record["curve"][-1]["steps"] >= 1


def test_loss_that_is_not_finite_ends_the_run_but_not_the_study(prepared, monkeypatch):
    folders = prepared("peer", "told")
    step = Run._step

    def spoil(self):
        if self.job.name == "peer":
            torch.nn.init.constant_(self.network.intro.weight, math.inf)
        step(self)

    monkeypatch.setattr(Run, "_step", spoil)
    first, second = learning.work_through(folders, [])
    assert "loss of 'peer' must be finite, got nan in step 1; lower its rate" in first
    assert second is None


def test_rate_follows_the_share_of_the_budget(prepared):
    (folder,) = prepared("peer", unit="minutes", amount=10)
    started = Run(Job.read(folder / "job.json"), folder)
    for minutes, share in [(0, 1.0), (5, 0.5), (10, 0.0)]:
        started.seconds = minutes * 60
        started._set_rate()
        assert [group["lr"] for group in started.optimizer.param_groups] == pytest.approx([share * 1e-2] * 2, abs=5e-5)


def test_candidates_of_a_seed_share_patches_and_seeds_do_not(prepared):
    jobs = [Job.read(folder / "job.json") for folder in prepared("ours", "peer", seeds=(0, 1))]
    assert [(one.seed, one.name) for one in jobs] == [(0, "ours"), (0, "peer"), (1, "ours"), (1, "peer")]
    assert jobs[0].patches == jobs[1].patches != jobs[2].patches == jobs[3].patches
    assert len({one.validation for one in jobs}) == 1


def test_patches_are_those_of_training_across_files_and_epochs(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("training.pictures.LEAST_EPOCH", 1)
    own = with_patches(recipe, 16, 7)
    patches = Patches(find_patches(recipe, 16, 7, tmp_path), own)
    batches = [patches.batch(step, 3) for step in range(3)]
    degraded, clean, classes = (torch.cat(parts) for parts in zip(*batches, strict=True))
    drawer = Drawer(own)
    for place in range(9):
        epoch, index = divmod(place, 4)  # a third of the six photographs is held out
        drawer.patches.set_epoch(epoch)
        drawn = drawer.patches[index]
        assert (degraded[place] - drawn["pixel_values"].clamp(0, 1)).abs().max() <= 0.5001 / 255
        assert (clean[place] - drawn["labels"]).abs().max() <= 0.5001 / 255
        assert drawn["severity"][classes[place]] == drawn["severity"].max() > 0
    assert len(list(patches.folder.glob("[0-9]*[0-9].npy"))) == 3
    again = Patches(patches.folder, own)
    again._drawer = "not needed"
    assert torch.equal(again.batch(2, 3)[0], degraded[6:])


def test_other_photographs_or_settings_draw_anew(recipe, tmp_path):
    other = Recipe.from_dict(recipe.to_dict() | {"data": recipe.to_dict()["data"] | {"severity": [0.1, 0.2]}})
    names = {find_patches(one, side, 0, tmp_path).name for one in (recipe, other) for side in (16, 24)}
    assert len(names) == 4
    assert find_patches(recipe, 16, 0, tmp_path).name in names


def test_held_out_pictures_are_never_trained_on(recipe, tmp_path, photographs):
    stored = learning_pictures.load_validation(draw_validation(recipe, 20, 24, tmp_path))
    assert list(stored.degraded) == list(KINDS)
    for place, number in enumerate((0, 3)):
        whole = np.asarray(Image.open(photographs / f"{number}.png"))[4:28, 8:32]
        np.testing.assert_array_equal((stored.clean[place] * 255).round().numpy(), whole.transpose(2, 0, 1))


def test_validation_needs_photographs(tmp_path, monkeypatch, recipe):
    sets = learning_pictures.load_sets(recipe.data)
    sets.held_out.clear()
    monkeypatch.setattr(learning_pictures, "load_sets", lambda data: sets)
    with pytest.raises(ValueError, match=r"`data.clean_dirs` must name clean photographs to validate on, got none"):
        draw_validation(recipe, 2, 24, tmp_path)


def test_gain_is_psnr_after_minus_before():
    clean = torch.rand(2, 3, 16, 16) * 0.8 + 0.1
    darker, same = clean - 0.1, clean + 0.05
    found = score(torch.nn.Hardtanh(0.2, 0.8), Validation({"low_light": darker, "noise": same}, clean))
    expected = [
        peak_signal_noise_ratio(one.numpy(), after.clamp(0.2, 0.8).numpy(), data_range=1)
        - peak_signal_noise_ratio(one.numpy(), after.numpy(), data_range=1)
        for one, after in zip(clean, darker, strict=True)
    ]
    assert found["gain"]["low_light"] == pytest.approx(np.mean(expected), abs=1e-4)
    untouched = score(torch.nn.Identity(), Validation({"noise": same}, clean))
    assert (untouched["gain"], untouched["clean"]) == ({"noise": 0.0}, None)


class Brighter(torch.nn.Module):
    def forward(self, degraded):
        return degraded + 0.05


def test_detail_does_not_count_a_change_of_tone():
    clean = torch.rand(2, 3, 48, 40) * 0.6 + 0.2
    found = score(Brighter(), Validation({"noise": clean + 0.02 * torch.randn(clean.shape)}, clean))
    assert found["gain"]["noise"] < -1
    assert found["detail"]["noise"] == pytest.approx(0, abs=1e-3)


def test_losses_are_those_of_the_papers():
    restored, clean = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    pairs = zip(restored.numpy(), clean.numpy(), strict=True)
    psnrs = [peak_signal_noise_ratio(truth, guess, data_range=1) for guess, truth in pairs]
    assert LOSSES["psnr"](restored, clean).item() == pytest.approx(-np.mean(psnrs), rel=1e-5)
    assert LOSSES["log"](restored, clean).item() == pytest.approx(-np.mean(psnrs) * math.log(10) / 10, rel=1e-5)
    ours = build_network(parse_candidate("ours", CANDIDATES["ours"]), SHIPPED)
    batch = Batch(restored, clean, torch.zeros(3, dtype=torch.long))
    expected = compute_loss(ours, "own", batch).item()  # its correction starts at zero
    assert compute_loss(ours, "eq11", batch).item() == pytest.approx(expected, rel=1e-5)


def test_told_peer_starts_as_the_peer_and_learns_from_the_embedding():
    told = build_network(
        parse_candidate("told", CANDIDATES["peer"] | {"network": PEER | {"film": "NAFBlock"}}), SHIPPED
    )
    torch.manual_seed(1)
    peer = build_network(parse_candidate("peer", CANDIDATES["peer"]), SHIPPED)
    state = {name.replace(".block.", "."): value for name, value in told.peer.state_dict().items()}
    peer.load_state_dict({name: value for name, value in state.items() if ".film." not in name})
    batch = Batch(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.long))
    pictures, classes = batch.degraded, batch.classes
    assert torch.equal(restore(told, pictures, classes), restore(peer, pictures, classes))
    compute_loss(told, "l1", batch).backward()
    trained = {name: parameter.grad for name, parameter in told.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None for gradient in trained.values())
    assert sum(".film." in name for name in trained) == 6
    assert any(name.startswith("extractor.extractor.") for name in trained)
    cost, head = count_cost(told), told.extractor.description_head
    assert cost["parameters"] - cost["trained"] == sum(one.numel() for one in head.parameters())


@pytest.mark.ci
@pytest.mark.slow
def test_network_of_class_labels_is_told_them_and_learns_them(prepared):
    (folder,) = prepared("labelled")
    trained = Run(Job.read(folder / "job.json"), folder)
    batch = trained._batch()
    for parameter in trained.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # past the zeros, behind which no label shows
    others = restore(trained.network, batch.degraded, (batch.classes + 1) % len(KINDS))
    assert not torch.equal(restore(trained.network, batch.degraded, batch.classes), others)
    compute_loss(trained.network, "own", batch).backward()
    learnt = trained.network.class_embedding.weight.grad.any(1).nonzero().flatten()
    assert learnt.tolist() == sorted(set(batch.classes.tolist()))
    assert run(folder)["clean"] is None  # no label says that nothing is wrong


def test_peer_without_the_named_blocks_is_refused():
    with pytest.raises(ValueError, match="`film` must name a class of the network's blocks, got 'Block'; correct it"):
        build_network(parse_candidate("told", CANDIDATES["peer"] | {"network": PEER | {"film": "Block"}}), SHIPPED)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"looss": "l1"}, "'one' must have network, loss and training, got 'looss'; correct it"),
        ({"network": {}}, "`network` of 'one' must have either `config` or `class`, got {}; give one"),
        ({"loss": "own"}, "`loss` of 'one' must be one of l1, psnr, eq11, log, got 'own'; choose one"),
        ({"training": {"lr": 0}}, "`training.lr` must be"),
        (
            {"training": {"batch_size": [[0, 8], [9, 4]]}},
            "`training` of 'one' must keep one batch size and one patch side, got more; give one each",
        ),
        ({"extends": "two"}, "`extends` must name another candidate without a circle, got 'two'; correct it"),
        ({"extends": "one"}, "`extends` must name another candidate without a circle, got 'one'; correct it"),
    ],
)
def test_wrong_candidate_is_refused(change, text, tmp_path):
    (tmp_path / "candidates.json").write_text(json.dumps({"one": CANDIDATES["peer"] | change}))
    with pytest.raises(ValueError, match=re.escape(text)):
        read_candidates(tmp_path / "candidates.json")


@pytest.mark.ci
@pytest.mark.slow
def test_shipped_candidates_are_whole():
    known = read_candidates(ROOT / "configuration" / "learning.json")
    costs = {name: count_cost(build_network(one, SHIPPED)) for name, one in known.items()}
    assert costs["restormer_matched"]["macs"] == pytest.approx(costs["nafnet32"]["macs"], rel=0.01)
    assert costs["nafnet32"]["trained"] < costs["nafnet32_film"]["trained"]


def make_record(candidate, seed, mean, unit="minutes"):
    gain = {"low_light": mean + 1, "noise": mean - 1}
    numbers = {
        "trained": 2_500_000, "macs": 61_000.0, "scan_flops": 7_000.0, "steps": 400, "step_seconds": 0.5,
        "pixels_per_second": 65_536.0, "megapixel_seconds": 4.0, "memory": 2**30, "clean": 40.0,
    }  # fmt: skip
    machine = {"cpu": "Model X", "cores": 2, "device": "cpu", "processes": 1, "threads": 1, "torch": "2.15.0"}
    curve = [{"minutes": 1.0, "mean": mean - 0.1}, {"minutes": 2.0, "mean": mean}]
    budget = {"unit": unit, "amount": 30}
    own = {"candidate": candidate, "seed": seed, "budget": budget, "gain": gain, "mean": mean, "curve": curve}
    own["detail"] = {"low_light": 0.25, "noise": mean}
    return own | numbers | {"machine": machine}


def test_table_joins_seeds_and_puts_the_best_first(tmp_path):
    records = [
        make_record("a", 0, 1.0),
        make_record("a", 1, 1.5),
        make_record("b", 0, 2.0),
        make_record("b", 0, 3.0, "steps"),
    ]
    rows = learning_grid({"records": records})
    assert [row[:2] for row in rows[1:]] == [["b", "30 minutes"], ["a", "30 minutes"], ["b", "30 steps"]]
    assert rows[2][2:] == [
        "2.50", "61.0", "7.0", "400", "0.500", "65.5", "4.00", "1.00", "2", "+1.25 ± 0.25", "+2.25", "+0.25", "40.0",
    ]  # fmt: skip
    unknown = records[0] | {"memory": None, "clean": None}
    assert [learning_grid({"records": [unknown]})[1][column] for column in (9, -1)] == ["-", "-"]
    text = render_learning({"records": records})
    assert "Measured on Model X, 2 cores, 1 thread" in text
    assert "| a | 30 minutes | +0.25 | +1.25 |" in text


def test_change_is_named_by_what_differs():
    plain = {"network": {"config": "a.json", "overrides": {"dim": 24}}, "training": {"lr": 0.1, "betas": [0.9, 0.99]}}

    def changed(**sections):
        return name_change({name: plain.get(name, {}) | sections.get(name, {}) for name in plain} | sections, plain)

    assert changed(training={"lr": 0.1, "betas": [0.9, 0.9]}) == "betas = [0.9, 0.9]"
    assert changed(network={"config": "a.json", "overrides": {"dim": 24, "has_film": False}}) == "has_film = false"
    assert changed(network={"config": "a.json", "overrides": {}}) == "dim unset"
    assert changed(training={"lr": 0.1, "betas": [0.9, 0.99], "decay_steps": None}) == "decay_steps = null"
    assert changed(loss="log") == 'loss = "log"'
    assert changed(network={"class": "library.module.Net"}) == "Net"
    assert changed(network={"class": "library.module.Net", "film": "Block"}) == "Net, told by the extractor"


def changes():
    """Two seeds of the reference, and of a change that adds 0.5 and 1.5 dB to them."""
    runs = [(REFERENCE, 0, 1.0), (REFERENCE, 1, 2.0), ("brighter", 1, 3.5), ("brighter", 0, 1.5)]
    definitions = {REFERENCE: {"network": {"config": "a"}}, "brighter": {"network": {"config": "a"}, "loss": "log"}}
    return {"records": [make_record(*one, "steps") | {"definition": definitions[one[0]]} for one in runs]}


def test_changes_are_set_beside_the_reference_seed_by_seed():
    header, _, own, row = render_changes(changes()).splitlines()[:4]
    assert header.startswith("| change | s / step | s / Mpx | gain (dB) | low light | noise | clean |")
    assert own == "| none | 0.500 | 4.00 | +1.50 ± 0.50 | +2.50 | +0.50 | 40.0 |"
    assert row == '| `loss = "log"` | 0.500 | 4.00 | +1.00 ± 0.50 | +1.00 | +1.00 | +0.0 |'


def test_changes_of_several_budgets_are_refused():
    results = changes()
    results["records"][0]["budget"] = {"unit": "steps", "amount": 31}
    with pytest.raises(ValueError, match="one budget, got 30 steps, 31 steps"):
        group_changes(results)


def test_later_record_takes_the_place_of_the_earlier(tmp_path):
    path = tmp_path / "learning.json"
    path.write_text(json.dumps({"records": [make_record("a", 0, 1.0), make_record("a", 1, 1.0)]}))
    merged = learning.merge(path, [make_record("a", 0, 2.0), make_record("a", 0, 3.0, "steps")])
    assert [(one["budget"]["unit"], one["seed"], one["mean"]) for one in merged["records"]] == [
        ("minutes", 0, 2.0), ("minutes", 1, 1.0), ("steps", 0, 3.0),
    ]  # fmt: skip
