"""The benchmark of exported files: what it writes, with files that hold nothing and programs that are known."""

import json
import subprocess

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import export
from benchmarks.failures import load_photograph
from tests.modeling_dpmambair.models import small_model


@pytest.fixture
def stand_ins(monkeypatch):
    """In place of exported files: the model itself, a little too bright; and one that is refused."""

    def write(folder, path, arguments):
        if arguments:
            raise ValueError("too far off")
        path.write_bytes(bytes(2048))

    def open_brighter(path, arguments, threads):
        def restore(degraded):
            with torch.no_grad():
                return model(degraded).reconstruction.clamp(0, 0.9) + 0.01

        return restore

    model = small_model()
    # The clamped differences are then known wherever the picture is neither black nor white.
    torch.nn.init.zeros_(model.network.conv_out.weight)
    monkeypatch.setattr(export, "PHOTOGRAPHS", ("coffee",))
    monkeypatch.setattr(export, "load_photograph", lambda name: load_photograph(name).resize((87, 58)))
    monkeypatch.setattr(export, "make_file", write)
    monkeypatch.setattr(export, "open_file", open_brighter)
    return model


def test_results_say_size_quality_and_speed_of_what_was_made_and_what_was_refused(stand_ins, tmp_path):
    stand_ins.save_pretrained(tmp_path / "model")
    output, names = tmp_path / "results.json", ["ONNX, float32", "ONNX, dynamic 8 bits"]
    arguments = ["--model", tmp_path / "model", "--longest", 128, "--repeats", 1, "--output", output]
    arguments += [each for name in names for each in ("--variant", name)]
    result = CliRunner().invoke(export.app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    results = json.loads(output.read_text())
    model, made, refused = results["files"]
    assert results["pictures"] == 7
    assert model["bytes"] == (tmp_path / "model/model.safetensors").stat().st_size
    assert (made["name"], made["bytes"]) == (names[0], 2048)
    assert made["loss"] == pytest.approx(model["psnr"] - made["psnr"])
    assert 20 < made["lowest"] <= 40.1
    assert set(made["seconds"]) == {"128"}
    assert refused == {"name": names[1], "refused": "too far off"}
    assert "refused" in result.stdout


@pytest.mark.slow
def test_refused_file_is_an_error_in_the_words_of_the_command(tmp_path):
    with pytest.raises(ValueError, match="^`DIR` must be a folder with a model's config.json"):
        export.make_file(tmp_path, tmp_path / "restorer.onnx", ())


def test_crash_of_the_command_is_no_refusal(tmp_path, monkeypatch):
    crash = "Traceback (most recent call last):\nAssertionError: Guard failed: 1 != 1\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", crash))
    with pytest.raises(RuntimeError, match="must write or refuse restorer.onnx, got a crash"):
        export.make_file(tmp_path, tmp_path / "restorer.onnx", ())
