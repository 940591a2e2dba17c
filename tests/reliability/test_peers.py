"""What other libraries make of the same pictures and weights: nothing is asked of them, it stands beside ours."""

import json
import subprocess
import sys

import pytest
import spandrel
import torch
from transformers import Swin2SRConfig, Swin2SRModel

from tests.reliability.hostile_models import FOREIGN_WEIGHTS, spoil
from tests.reliability.hostile_pictures import write_corpus
from tests.reliability.test_hostile_pictures import PATIENCE

pytestmark = pytest.mark.slow

# Reads the files that are named on its input, and says of each, in a line of JSON, what came of it.
READER = """
import faulthandler, json, resource, sys, time, warnings
warnings.simplefilter("ignore")
door = sys.argv[1]
if door == "torchvision":
    from torchvision.io import decode_image
    read = lambda path: decode_image(path)
elif door == "transformers":
    from transformers import Swin2SRImageProcessor
    from transformers.image_utils import load_image
    processor = Swin2SRImageProcessor()
    read = lambda path: processor(load_image(path), return_tensors="pt")
else:
    import cv2, numpy, torch
    def read(path):  # as chaiNNer and ComfyUI read what they hand to spandrel's models
        image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        if image is None:
            raise ValueError("nothing was read")
        return torch.from_numpy(image.astype(numpy.float32))
resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)
for line in sys.stdin:
    path, begun = json.loads(line), time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 30, -1))
    print(json.dumps({"begun": path}), flush=True)
    try:
        read(path)
        said = None
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps({"path": path, "said": said, "seconds": time.process_time() - begun}), flush=True)
"""


def read_all(door, paths):
    """Let a library read files in processes of its own, a new one where one has died; return what came of each."""
    left, found = list(map(str, paths)), {}
    while left:
        given = "".join(json.dumps(path) + "\n" for path in left)
        command = [sys.executable, "-c", READER, door]
        done = subprocess.run(command, input=given, capture_output=True, text=True, errors="replace")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found |= {line["path"]: line for line in lines if "path" in line}
        begun = [line["begun"] for line in lines if "begun" in line]
        assert begun, done.stderr[-2000:]
        if begun[-1] not in found:
            found[begun[-1]] = {"path": begun[-1], "died": done.returncode}
        left = [path for path in left if path not in found]
    return found


@pytest.mark.parametrize("door", ["torchvision", "transformers", "OpenCV, as before spandrel"])
def test_peers(tmp_path, record, door):
    paths = write_corpus(tmp_path / "in", 1)
    failed = []
    for path, outcome in read_all(door.split(",")[0], paths).items():
        name, said = path.rpartition("/")[2], outcome.get("said")
        if "died" in outcome:
            failed.append(f"{name}: died ({outcome['died']})")
        elif outcome["seconds"] > PATIENCE:
            failed.append(f"{name}: {outcome['seconds']:.0f} s")
        elif said is not None and (name not in said or len(said.splitlines()) > 1):
            failed.append(f"{name}: {said}")
    record("hostile pictures", door, len(paths), failed, is_ours=False)


@pytest.fixture
def unpickled(monkeypatch):
    """What was handed to torch's unpickler, which still loads it."""
    seen, load = [], torch.load

    def watched(file, *rest, **options):
        seen.append(file)
        return load(file, *rest, **options)

    monkeypatch.setattr(torch, "load", watched)
    return seen


def load_by_transformers(folder):
    Swin2SRModel.from_pretrained(folder)


def load_by_spandrel(folder):
    pickles = [file for file in folder.iterdir() if file.suffix in (".bin", ".pth")]
    spandrel.ModelLoader("cpu").load_from_file(pickles[0])


# The first are pickles, which alone can be handed to spandrel; the last are broken.
@pytest.mark.parametrize(("name", "load", "count"), [("transformers", load_by_transformers, 6),
                                                     ("spandrel", load_by_spandrel, 4)])  # fmt: skip
def test_peers_and_weights_in_other_formats(tmp_path, record, unpickled, name, load, count):
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 2, "image_size": 8}
    Swin2SRModel(Swin2SRConfig(**sizes)).save_pretrained(tmp_path / "sound")
    opened = []
    for kind, spoiling, _ in FOREIGN_WEIGHTS[:count]:
        unpickled.clear()
        try:
            load(spoil(tmp_path / kind, tmp_path / "sound", spoiling))
            opened.append(kind)
        except Exception:
            opened += [kind] if unpickled else []
    record("weights in other formats", name, count, opened, is_ours=False)
