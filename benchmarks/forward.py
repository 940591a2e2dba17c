"""Time whole restorers beside their peers: `python -m benchmarks.forward`.

All sides run in one process, in turn, on the same picture, threads, dtype and allocator settings; medians count. The
peers are those that `spandrel` and `spandrel_extra_arches` carry, in the sizes of their papers. Weights are random on
every side: speed does not depend on them.
"""

import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from matplotlib.figure import Figure
from spandrel.architectures.NAFNet.__arch.NAFNet_arch import NAFNet
from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR
from spandrel_extra_arches.architectures.MIRNet2.__arch.mirnet_v2_arch import MIRNet_v2
from spandrel_extra_arches.architectures.MPRNet.__arch.MPRNet import MPRNet
from spandrel_extra_arches.architectures.Restormer.__arch.restormer_arch import Restormer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.analysis import count_cost
from benchmarks.cost import MODELS
from benchmarks.files import RESULTS, write_text
from benchmarks.forward_table import RIVAL, forward_grid
from benchmarks.machine import measure_ceiling, measure_memory, time_call
from benchmarks.rendering import format_columns
from dpmambair.files import replacing
from dpmambair.machine import describe_machine
from dpmambair.memory import keep_freed_memory
from modeling_dpmambair import DPMambaIRConfig, DPMambaIRModel, restore_tiled
from modeling_dpmambair.restorer_dpmambair import has_bfloat16

OURS = ("base", "small", "light")
# Peers at the size of their papers' restoration models; SwinIR's is that for denoising.
PEERS: dict[str, Callable[[], nn.Module]] = {
    RIVAL: Restormer,
    "MPRNet": MPRNet,
    "MIRNet-v2": MIRNet_v2,
    "NAFNet-64": lambda: NAFNet(width=64, middle_blk_num=12, enc_blk_nums=[2, 2, 4, 8], dec_blk_nums=[2, 2, 2, 2]),
    "SwinIR": lambda: SwinIR(
        upscale=1, img_size=128, window_size=8, img_range=1.0, depths=[6] * 6, embed_dim=180, num_heads=[6] * 6,
        mlp_ratio=2, upsampler="", resi_connection="1conv",
    ),
}  # fmt: skip
SIDES = (128, 256, 512, 1024, 2048)
# Sides that each is asked for at most on a processor, pixels: beyond it takes too much time or memory.
LARGEST = {"base": 1024, "small": 1024, "light": 2048, RIVAL: 512, "NAFNet-64": 512}
LARGEST_PEER = 256
# The size at which the paper counts.
COUNTED_SIDE = 256


@dataclass(frozen=True)
class Side:
    """One network to time: its name, itself, and its multiply-accumulates for a picture of 256 x 256."""

    name: str
    network: nn.Module
    macs: int

    def restore(self, picture: torch.Tensor, dtype: torch.dtype) -> None:
        """Run the network once, in the dtype by autocast where it is not float32."""
        is_mixed = dtype != torch.float32
        with torch.inference_mode(), torch.autocast(picture.device.type, dtype, enabled=is_mixed):
            # Ours as its users run it, where large pictures pass in strips.
            restore_tiled(self.network, picture) if self.name in OURS else self.network(picture)


def build_ours(name: str) -> Side:
    """Build a member of the family from `configuration/model`."""
    config = DPMambaIRConfig.from_dict(json.loads((MODELS / f"{name}.json").read_text(encoding="utf-8")))
    model = DPMambaIRModel(config).eval()
    return Side(name, model, count_cost(model, COUNTED_SIDE, COUNTED_SIDE).macs)


def build_peer(name: str) -> Side:
    """Build a peer, and count its multiply-accumulates as ours are, on the meta device: nothing is computed."""
    network = PEERS[name]().eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta")(torch.zeros(1, 3, COUNTED_SIDE, COUNTED_SIDE, device="meta"))
    return Side(name, network, counter.get_total_flops() // 2)


def measure(
    sides: list[Side], pixels: int, dtype: torch.dtype, repeats: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Time the sides that this size is not too much for, in turn, and measure each one's memory once.

    Args:
        sides: what to time.
        pixels: side of the square picture.
        dtype: in which they compute.
        repeats: rounds after the one that warms up and measures memory.
        device: on which the sides are, "cpu" or "cuda".

    Returns:
        A record each: median `seconds`, `memory` in bytes, `flops` a second, counted on multiply-accumulates alone.
    """
    picture = torch.rand(1, 3, pixels, pixels, device=device)
    running = [side for side in sides if device != "cpu" or pixels <= LARGEST.get(side.name, LARGEST_PEER)]
    memory = {side.name: measure_memory(lambda side=side: side.restore(picture, dtype), device) for side in running}
    seconds: dict[str, list[float]] = {side.name: [] for side in running}
    for _ in range(repeats):
        for side in running:
            seconds[side.name].append(time_call(lambda side=side: side.restore(picture, dtype), device))
    records = []
    for side in running:
        median = statistics.median(seconds[side.name])
        rate = 2 * side.macs * (pixels / COUNTED_SIDE) ** 2 / median
        name = str(dtype).removeprefix("torch.")
        one = {"model": side.name, "dtype": name, "pixels": pixels, "seconds": median, "flops": rate}
        records.append(one | {"memory": memory[side.name], "spread": max(seconds[side.name]) / median})
    return records


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot time over size for every side, both axes logarithmic, into a PNG file: a panel for each dtype."""
    dtypes = list(dict.fromkeys(one["dtype"] for one in results["records"]))
    figure = Figure(figsize=(1.5 + 4.5 * len(dtypes), 4.5), layout="constrained")
    panels = figure.subplots(1, len(dtypes), sharex=True, sharey=True, squeeze=False)[0]
    for axes, dtype in zip(panels, dtypes, strict=True):
        times: dict[str, dict[int, float]] = {}
        for one in results["records"]:
            if one["dtype"] == dtype:
                times.setdefault(one["model"], {})[one["pixels"]] = one["seconds"]
        for name, seconds in times.items():
            style = "-" if name in OURS else "--"
            axes.loglog(list(seconds), list(seconds.values()), style, marker="o", base=2, label=name)
        axes.set(xlabel="side of the picture, pixels", title=dtype)
        axes.grid(visible=True, which="both", alpha=0.3)
    panels[0].set_ylabel("seconds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.suptitle(f"restoring one picture on {results['machine']['device'].replace('cpu', 'the CPU')}")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=120)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    pixels: Annotated[list[int], typer.Option(min=8, help="Side of the picture; repeatable.")] = SIDES,
    model: Annotated[list[str], typer.Option(help="Side to time; repeatable.")] = (*OURS, *PEERS),
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that warms up.")] = 5,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What computes.")] = "cpu",
    output: Annotated[Path, typer.Option(help="JSON file to write; the plot goes beside it.")] = (
        RESULTS / "forward.json"
    ),
) -> None:
    """Print time, memory and share of the machine's ceiling of every side and size, and write them.

    In float32, and in bfloat16 where the device computes in it.
    """
    keep_freed_memory()
    for name in model:
        if name not in (*OURS, *PEERS):
            raise typer.BadParameter(f"`model` must be one of {', '.join((*OURS, *PEERS))}, got {name!r}; correct it")
    dtypes = [torch.float32, *([torch.bfloat16] if has_bfloat16(torch.device(device)) else [])]
    sides = [
        build_ours(name) if name in OURS else build_peer(name) for name in tqdm(model, desc="build", disable=None)
    ]
    for side in sides:
        side.network.to(device)
    ceiling = {str(dtype).removeprefix("torch."): measure_ceiling(dtype, device) for dtype in dtypes}
    work = [(side, dtype) for side in pixels for dtype in dtypes]
    records = [one for side, dtype in tqdm(work, disable=None) for one in measure(sides, side, dtype, repeats, device)]
    name = torch.cuda.get_device_name() if device == "cuda" else device
    results = {"machine": describe_machine(name), "ceiling": ceiling, "repeats": repeats, "records": records}
    write_text(output, json.dumps(results, indent=2) + "\n")
    draw(results, output.with_suffix(".png"))
    typer.echo(format_columns(forward_grid(results)))


if __name__ == "__main__":
    app()
