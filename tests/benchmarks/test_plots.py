"""Plots of what results files and logs tell: points stand where the files say."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.files import RESULTS
from benchmarks.plots import LABEL_STEP, app, draw_changes, draw_speed, draw_training, find_front, read_run
from dpmambair.shipped import SHIPPED


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_front_is_what_no_other_place_surpasses():
    places = [tuple(place) for place in np.random.default_rng(0).integers(0, 12, (60, 2)).tolist()]
    expected = {
        (cost, gain)
        for cost, gain in places
        if not any(other != (cost, gain) and other[0] <= cost and other[1] >= gain for other in places)
    }
    front = find_front(places)
    assert set(front) == expected
    assert front == sorted(front)
    assert len(front) == len(expected)


def record(name, seconds, gain, steps=400, **network):
    return {
        "candidate": name,
        "budget": {"unit": "steps", "amount": steps},
        "definition": {"network": network},
        "mean": gain,
        "megapixel_seconds": seconds,
    }


def drawn(axes):
    """Place and colour of every network of a panel, by name."""
    points = [container.lines[0] for container in axes.containers]
    found = [(*(values[0] for values in line.get_data()), line.get_color()) for line in points]
    names = {text.xy: text.get_text() for text in axes.texts}
    return {names[(x, y)]: (x, y, colour) for x, y, colour in found}


def test_networks_stand_at_the_means_of_their_seeds_in_the_panel_of_their_budget():
    records = [record("ours", seconds, gain, config="tiny.json") for seconds, gain in ((1.0, 2.0), (3.0, 5.0))]
    records += [record("peer", 4.0, 1.0, **{"class": "a.B"}), record("peer", 4.0, 2.5, 800, **{"class": "a.B"})]
    long, short = draw_speed({"records": records}).axes
    assert (long.get_title(), short.get_title()) == ("trained for 800 steps", "trained for 400 steps")
    assert drawn(long) == {"peer": (4.0, 2.5, "#D55E00")}
    assert drawn(short) == {"ours": (2.0, 3.5, "#0072B2"), "peer": (4.0, 1.0, "#D55E00")}
    (spread,) = short.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(spread, [(2.0, 2.0), (2.0, 5.0)])


def test_names_of_equal_gains_do_not_touch():
    axes = draw_speed({"records": [record(f"n{i}", 1.0 + i, 1 + i / 1000, config="a") for i in range(12)]}).axes[0]
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert np.diff(heights).min() >= LABEL_STEP - 1e-9


def test_committed_results_are_drawn_whole(tmp_path):
    result = run("speed", "--output", tmp_path / "speed.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "speed.png") as picture:
        assert picture.format == "PNG"
    records = json.loads((RESULTS / "learning.json").read_text())["records"]
    panels = draw_speed({"records": records}).axes
    assert sum(len(axes.texts) for axes in panels) == len({(one["candidate"], str(one["budget"])) for one in records})
    result = run("changes", "--output", tmp_path / "changes.png")
    assert result.exit_code == 0, result.output


def test_changes_have_a_dot_for_each_seed_and_a_row_of_kinds():
    def run_of(name, seed, mean, **definition):
        own = {"candidate": name, "seed": seed, "definition": {"network": {"config": "a"}} | definition}
        gain = {"rain": mean, "snow": 2 * mean}
        return own | {"budget": {"unit": "steps", "amount": 4}, "mean": mean, "gain": gain, "clean": 40.0}

    records = [run_of("light_frozen", 0, 1.0), run_of("light_frozen", 1, 2.0)]
    records += [run_of("other", 0, 1.5, loss="log"), run_of("other", 1, 2.25, loss="log")]
    means, kinds, _ = draw_changes({"records": records}).axes
    assert list(means.lines[0].get_xdata()) == [0.5, 0.25]
    assert [text.get_text() for text in means.get_yticklabels()] == ['loss = "log"']
    np.testing.assert_allclose(kinds.images[0].get_array(), [[0.375, 0.75]])


def write_run(folder, stage, records):
    folder.mkdir(parents=True)
    recipe = {"model": {"stage": stage}, "data": {"validation_pictures": 8, "validation_patch": 128}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


@pytest.fixture
def model(tmp_path):
    """A model that an extractor's run and two runs of the restorer made: one hour, two hours, and half an hour."""
    folder = tmp_path / "small"
    write_run(folder / "training/first", "extractor", [{"step": 1, "seconds": 3600}, {"step": 1, "gain_rain": 9}])
    long = [{"step": 5, "seconds": 1800}, {"step": 5, "validation_loss": 1, "gain_rain": 1, "gain_snow": 2}]
    write_run(folder / "training/long", "restorer", [*long, {"step": 9, "seconds": 7200}, {"step": 9, "gain_rain": 4}])
    write_run(folder / "training/last", "restorer", [{"step": 1, "seconds": 1800}, {"step": 1, "gain_rain": 5}])
    return folder


def test_validations_stand_at_the_time_of_their_step_and_other_stages_have_none(model):
    assert read_run(model / "training/long") == ([0.5, 2.0], [1.5, 4.0], 2.0)
    assert read_run(model / "training/first") == ([], [], 1.0)


def test_runs_follow_each_other(model):
    axes = draw_training(model, ["first", "long", "last"]).axes[0]
    curves = [tuple(map(list, line.get_data())) for line in axes.lines]
    assert curves == [([1.5, 3.0], [1.5, 4.0]), ([3.5], [5.0])]
    assert [text.get_text() for text in axes.texts] == ["first"]
    assert axes.get_title() == "small"


def test_shipped_logs_are_drawn_and_no_two_runs_look_alike(tmp_path):
    runs = sorted(path.parent.name for path in (SHIPPED / "training").glob("*/log.jsonl"))
    lines = draw_training(SHIPPED, runs).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines) > 1
    result = run("training", SHIPPED, *runs, "--output", tmp_path / "training.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "training.png").is_file()


def test_unknown_run_is_refused(model, tmp_path):
    result = run("training", model, "long", "lost", "--output", tmp_path / "training.png")
    assert result.exit_code == 2
    assert "got 'lost'; correct it" in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "training.png").exists()
