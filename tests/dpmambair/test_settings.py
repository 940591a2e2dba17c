"""What decides how a file looks: what is refused, and what its hash depends on."""

from dataclasses import replace

import pytest
from PIL import Image

from dpmambair.settings import Settings


def test_a_format_that_this_pillow_does_not_write_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="`format` must be one that this Pillow writes, got gif; choose of png, jpeg"):
        Settings(format="gif")
    monkeypatch.delitem(Image.SAVE, "AVIF")
    with pytest.raises(ValueError, match="got avif; choose of png, jpeg, webp, tiff$"):
        Settings(format="avif")
    assert Settings().choose_format("AVIF") == "PNG"


def test_a_quality_is_taken_where_some_format_has_one():
    assert Settings(format="webp", quality=80).quality == Settings(quality=80).quality == 80
    with pytest.raises(ValueError, match="`quality` must be given with jpeg, webp, avif alone, got it with tiff"):
        Settings(format="tiff", quality=80)


def test_the_fingerprint_changes_with_all_that_changes_the_file_and_nothing_else(model_folder, tmp_path):
    settings = Settings()
    first = settings.fingerprint(model_folder, "torch.float32")
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in model_folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    assert settings.fingerprint(copied, "torch.float32") == first
    others = [
        settings.fingerprint(copied, "torch.bfloat16"),
        *(
            replace(settings, **change).fingerprint(copied, "torch.float32")
            for change in (
                *({"strength": 0.5}, {"format": "jpeg"}, {"quality": 80}, {"keep_metadata": False}),
                *({"only": ("haze",)}, {"keep": ("haze",)}, {"self_ensemble": True}),
            )
        ),
    ]
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    others.append(settings.fingerprint(copied, "torch.float32"))
    assert len({fingerprint["settings"] for fingerprint in (first, *others)}) == 10
