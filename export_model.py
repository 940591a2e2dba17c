"""Export a trained restorer for other runtimes: `export_model.py DIR --format onnx -o restorer.onnx`.

| format | file | runs with |
|---|---|---|
| onnx | ONNX model | onnxruntime and numpy |
| torch-export | torch.export package, `.pt2` | torch |
| aoti | AOTInductor package of compiled code, `.pt2` | torch and this package, on a machine like this one |

All take `pixel_values`, (1, 3, H, W) float32 RGB in [0, 1], and return `reconstruction`, (1, 3, H, W) float32, not
clamped, and `degradation_embedding`, (1, E). Height and width are free. With `--strength` there is a second input
`strength`, a float32 tensor without dimensions.

With `--parts` the output is a folder with three ONNX models instead, for programs that put large pictures together as
this package does: `measure.onnx` and `embed.onnx` for the embedding of a whole picture, `restore.onnx` for a tile, and
`parts.json`, which says how large what they exchange is.

The file is checked against the model at four sizes before it is moved into its place: in float32 no value may differ
by more than 0.001; from weights in half precision or 8 bits, not by more than noise of 40 dB PSNR.

Exit status: 0 when the file stands in its place, 1 when it failed its check, 2 when it could not be made.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

# Read by onnxruntime when it is imported: otherwise it looks up its vendor's telemetry host.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnx
import onnxruntime
import torch
import torch.nn.functional as F
import typer
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.export import Dim, ExportedProgram
from transformers.utils.logging import disable_progress_bar

from modeling_dpmambair import DPMambaIRModel, load_model, scan_backend
from modeling_dpmambair.large_export_dpmambair import (
    PictureEmbedding,
    StripMeasures,
    TileRestorer,
    embed_in_parts,
    embedding_context,
    restore_in_parts,
)
from modeling_dpmambair.large_pictures_dpmambair import restore_tiled

Format = Literal["onnx", "torch-export", "aoti"]
Dtype = Literal["float32", "float16", "bfloat16"]
Int8 = Literal["weights", "dynamic"]
Restore = Callable[..., dict[str, torch.Tensor]]

# Traced sizes do not matter, as long as no side is 1 at an eighth of the resolution.
TRACED_SIZE = (40, 24)
# One is divisible by nothing: it is padded, and cropped again. The last has several windows.
CHECKED_SIZES = ((64, 64), (40, 104), (61, 83), (310, 200))
OUTPUTS = ("reconstruction", "degradation_embedding")
MAX_DEVIATION, MIN_PSNR = 1e-3, 40.0
# Of the parts: a picture of several windows and tiles, the tiles and their overlap.
TILED_SIZE, TILE, OVERLAP = (310, 45), (96, 48), 32
PARTS = ("measure", "embed", "restore")

main = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class PortableRestorer(torch.nn.Module):
    """A restorer that takes and returns nothing but tensors.

    Args:
        model: the restorer.
    """

    def __init__(self, model: DPMambaIRModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, strength: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Restore pictures (B, 3, H, W), RGB in [0, 1], with the correction times `strength`."""
        output = self.model(pixel_values, strength=strength)
        return {name: getattr(output, name) for name in OUTPUTS}


@contextlib.contextmanager
def new_place(target: Path) -> Iterator[Path]:
    """Give a path of the target's name in an empty folder beside it, where the exporters may leave what they like.

    Args:
        target: file to write in the end; its folder is made.
    """
    place = target.with_name(f".{target.name}.exporting")
    shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
    place.mkdir(parents=True)
    try:
        yield place / target.name
    finally:
        shutil.rmtree(place, ignore_errors=True)


class Agreement(NamedTuple):
    """How far an exported program's pictures are from the model's.

    Attributes:
        deviation: the largest difference of a value.
        psnr: of the exported program's pictures against the model's, dB; infinite where they are equal.
    """

    deviation: float
    psnr: float


def load_restorer(folder: Path) -> PortableRestorer:
    """Load a model for exporting.

    Args:
        folder: what `save_pretrained` wrote.

    Raises:
        ValueError: no such folder, no restorer, or one that needs more than a picture.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"`DIR` must be a folder with a model's config.json, got {folder}; give a trained model")
    disable_progress_bar()
    model = load_model(folder)
    if model.config.embedding_source != "extractor":
        raise ValueError(f"cannot load {folder}: it is no restorer with an extractor of its own")
    return PortableRestorer(model.float().requires_grad_(False))


def trace(restorer: PortableRestorer, has_strength: bool, is_portable: bool = True) -> ExportedProgram:
    """Trace a restorer for one picture of any size.

    Args:
        restorer: what to trace.
        has_strength: whether the program takes the input `strength`.
        is_portable: whether to use torch's own operators only, or this package's kernels.
    """
    inputs = {"pixel_values": torch.zeros(1, 3, *traced_size(restorer.model))}
    shapes: dict[str, dict[int, Dim] | None] = {"pixel_values": {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    if has_strength:
        inputs["strength"], shapes["strength"] = torch.tensor(1.0), None
    with torch.no_grad(), scan_backend("export") if is_portable else contextlib.nullcontext():
        return trace_module(restorer, inputs, shapes)


def traced_size(model: DPMambaIRModel) -> tuple[int, int]:
    """Return a size for tracing: of several windows, since what is one then would stay one."""
    window = model.config.extractor_config.window or 0
    return 2 * window + TRACED_SIZE[0], 2 * window + TRACED_SIZE[1]


def trace_module(
    module: torch.nn.Module, inputs: dict[str, torch.Tensor], shapes: dict[str, dict[int, Dim] | None]
) -> ExportedProgram:
    """Trace a module for inputs by name, with the shapes that are free."""
    program = torch.export.export(module, (), inputs, dynamic_shapes=shapes)
    # Tracing notes down, as if pictures had to keep to it, that several windows are more than one. They need not, as
    # `compare` shows with a picture of one.
    getattr(program, "_guards_code", []).clear()
    # Every node carries the stack that made it: megabytes, and paths of this machine.
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence what the exporters say about themselves; errors come through."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def write_onnx(program: ExportedProgram, path: Path, outputs: Sequence[str] = OUTPUTS) -> None:
    """Write an ONNX model, weights included.

    Args:
        program: of `trace`.
        path: file to write.
        outputs: their names.
    """
    exported = torch.onnx.export(program, dynamo=True, output_names=outputs, verbose=False)
    # The exporter notes down where in this process every node came from.
    ClearMetadataAndDocStringPass()(exported.model)
    exported.save(path, external_data=False)


def fold_constants(path: Path) -> None:
    """Let onnxruntime compute what does not depend on the picture, in place, so that every weight is seen to be one.

    Args:
        path: of the model.
    """
    folded = path.with_suffix(".folded.onnx")
    quant_pre_process(path, folded, skip_symbolic_shape=True)  # its own inference of shapes knows them well enough
    # It names all operator sets that onnxruntime knows, which other runtimes would take for needed.
    model = onnx.load(folded)
    used = [each for each in model.opset_import if each.domain in {node.domain for node in model.graph.node}]
    del model.opset_import[:]
    model.opset_import.extend(used)
    onnx.save(model, folded)
    os.replace(folded, path)


def store_halved(path: Path, dtype: Dtype) -> None:
    """Store the matrices and kernels of an ONNX model in half precision, in place; it computes in float32.

    Args:
        path: of the model.
        dtype: float16 or bfloat16.
    """
    fold_constants(path)
    model, half = onnx.load(path), getattr(onnx.TensorProto, dtype.upper())
    used = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    casts = []
    for weight in model.graph.initializer:
        if weight.name in used and weight.data_type == onnx.TensorProto.FLOAT:
            values = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy()).to(getattr(torch, dtype))
            content, name = values.view(torch.int16).numpy().tobytes(), weight.name
            weight.CopyFrom(onnx.helper.make_tensor(f"{name}_{dtype}", half, weight.dims, content, raw=True))
            casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def quantize(path: Path, kind: Int8) -> None:
    """Turn the matrix products of an ONNX model into 8 bits, in place; convolutions and scans stay as they are.

    Args:
        path: of the model.
        kind: "weights" stores them in 8 bits, in blocks of 32 with a scale each, and computes in float32; "dynamic"
            rounds what they are multiplied with as well, with one scale for all of a picture's features.
    """
    fold_constants(path)
    if kind == "dynamic":
        products = {"op_types_to_quantize": ["MatMul"], "per_channel": True, "weight_type": QuantType.QInt8}
        return quantize_dynamic(path, path, **products)
    quantizer = MatMulNBitsQuantizer(onnx.load(path), bits=8, block_size=32, is_symmetric=False)
    quantizer.process()
    return quantizer.model.save_model_to_file(str(path))


def write_aoti(program: ExportedProgram, path: Path) -> None:
    """Compile a package of machine code.

    Args:
        program: of `trace`.
        path: file to write, `.pt2`.

    Raises:
        ValueError: there is no C++ compiler.
    """
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError("`--format` must be another without a C++ compiler, got aoti; install g++") from error
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def write(program: ExportedProgram, form: Format, path: Path) -> None:
    """Write a program in the form that is wanted.

    Args:
        program: of `trace`.
        form: of the file.
        path: file to write.
    """
    if form == "onnx":
        write_onnx(program, path)
    elif form == "aoti":
        write_aoti(program, path)
    else:
        torch.export.save(program, path)


def open_onnx(path: Path) -> Restore:
    """Open an ONNX model.

    Args:
        path: of the model.

    Returns:
        A function from the inputs to the outputs, by name.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def restore(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, outputs, strict=True)}

    return restore


def open_exported(path: Path, form: Format) -> Restore:
    """Open what `export` wrote, as a function from the inputs to the outputs, by name.

    Args:
        path: of the file.
        form: of the file.
    """
    if form == "onnx":
        return open_onnx(path)
    if form == "aoti":
        return torch._inductor.aoti_load_package(str(path))
    return torch.export.load(path).module()


def draw_picture(height: int, width: int) -> torch.Tensor:
    """Draw a picture to check with: smooth colours under grain, (1, 3, H, W), always the same."""
    generator = torch.Generator().manual_seed(height * width)
    colours = torch.rand(1, 3, 4, 5, generator=generator)
    grain = torch.randn(1, 3, height, width, generator=generator)
    return (F.interpolate(colours, (height, width), mode="bilinear") + 0.05 * grain).clamp(0, 1)


@torch.no_grad()
def compare(restore: Restore, reference: DPMambaIRModel, has_strength: bool) -> Agreement:
    """Compare an exported program with the model that it was made from, at four sizes.

    Args:
        restore: the opened program.
        reference: the model in float32.
        has_strength: whether the program takes the input `strength`.
    """
    differences = []
    for size in CHECKED_SIZES:
        degraded, strength = draw_picture(*size), torch.tensor(0.7 if has_strength else 1.0)
        expected = reference(degraded, strength=strength)
        given = {"strength": strength} if has_strength else {}
        found = restore(pixel_values=degraded, **given)
        differences += [(found[name] - getattr(expected, name)).flatten() for name in OUTPUTS]
    deviation = torch.cat(differences).abs().max().item()
    error = torch.cat(differences[:: len(OUTPUTS)]).square().mean().item()
    # A program that returns what is no number agrees with nothing.
    return Agreement(deviation, math.inf if error == 0 else -10 * math.log10(error))


def check(found: Agreement, is_exact: bool) -> None:
    """Refuse a program that computes something else than its model.

    Args:
        found: of `compare`.
        is_exact: whether it computes in float32 and must agree to rounding.

    Raises:
        ArithmeticError: it differs by more than is allowed.
    """
    if is_exact and not found.deviation <= MAX_DEVIATION:
        raise ArithmeticError(f"the exported program must agree to {MAX_DEVIATION}, got {found.deviation:.2g}")
    if not found.psnr >= MIN_PSNR:
        raise ArithmeticError(
            f"the exported program must agree to {MIN_PSNR:g} dB, got {found.psnr:.1f}; export it in float32"
        )


def export(
    folder: Path,
    form: Format,
    path: Path,
    *,
    dtype: Dtype = "float32",
    int8: Int8 | None = None,
    has_strength: bool = False,
) -> Agreement:
    """Export a model into a file that is checked before it stands in its place.

    Args:
        folder: of the model.
        form: what to make.
        path: file to write; its folder is made.
        dtype: in which an ONNX model stores its matrices and kernels.
        int8: how to quantize the matrix products of an ONNX model, if at all.
        has_strength: whether the program takes the input `strength`.

    Returns:
        How far the program is from the model in float32.

    Raises:
        ValueError: the options do not go together, or the model does not load.
        ArithmeticError: the program does not compute what the model does.
    """
    smaller = [name for name, value in (("dtype", dtype), ("int8", int8)) if value not in ("float32", None)]
    if len(smaller) > 1 or (smaller and form != "onnx"):
        given = " and ".join(["--format " + form, *(f"--{name}" for name in smaller)])
        raise ValueError(f"`--{smaller[-1]}` must go with --format onnx alone, got {given}; leave one out")
    suffix = ".onnx" if form == "onnx" else ".pt2"
    if path.suffix != suffix:
        raise ValueError(f"`--output` must end in {suffix} with --format {form}, got {path.name}; rename it")
    with new_place(path) as unfinished:  # first, because a place that cannot be written is told at once
        restorer = load_restorer(folder)
        # Inductor cannot lower torch's scan operator where a length is a product of two free sizes.
        program = trace(restorer, has_strength, is_portable=form != "aoti")
        with quiet_exporters():
            write(program, form, unfinished)
            if int8:
                quantize(unfinished, int8)
            elif dtype != "float32":
                store_halved(unfinished, dtype)
        found = compare(open_exported(unfinished, form), restorer.model, has_strength)
        check(found, is_exact=not smaller)
        os.replace(unfinished, path)
    return found


def write_parts(model: DPMambaIRModel, folder: Path) -> None:
    """Write the three ONNX models of a restorer, and what a program must know of them.

    Args:
        model: the restorer.
        folder: to write into.
    """
    tiles, sides, free = TileRestorer(model), {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {0: Dim.DYNAMIC}
    picture = {"pixel_values": torch.zeros(1, 3, *TRACED_SIZE)}
    modules = {"measure": StripMeasures(model), "embed": PictureEmbedding(model), "restore": tiles}
    shapes = {"pixel_values": sides, "rows": free, "moments": free, "across": free | {2: Dim.DYNAMIC}}
    window = model.config.extractor_config.window
    shapes["down"] = {2: Dim.DYNAMIC} if window is None else shapes["across"]
    given = picture | {name: _place(8)[0] for name in ("start", "count")}
    with torch.no_grad(), scan_backend("export"):
        measured = _write_part(modules["measure"], given, shapes, folder / "measure.onnx")
        # Three strips, because tracing binds a dimension of one to one.
        joined = {"down"} if window is None else set()
        strips = {name: each if name in joined else torch.cat([each] * 3) for name, each in measured.items()}
        said = _write_part(modules["embed"], strips, shapes, folder / "embed.onnx")
        given = picture | {"degradation_embedding": said["degradation_embedding"]}
        given |= {"rows": _place(0, 40), "columns": _place(0, 24), "seams": _place(-1, 40, 40)}
        given |= {"means": torch.zeros(tiles.means), "knows_means": torch.tensor(1.0)}
        given["states"] = torch.zeros(2, tiles.states)
        _write_part(modules["restore"], given, {"pixel_values": sides}, folder / "restore.onnx")
    knowledge = {
        "means": tiles.means,
        "states": tiles.states,
        "context": embedding_context(model.extractor),
        "window": window,
    }
    names = model.config.extractor_config.degradations if model.config.has_description else None
    text = json.dumps({**knowledge, "degradations": names}, indent=2)
    (folder / "parts.json").write_text(text + "\n", encoding="utf-8")


def _place(*places: int) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.int32)


def _write_part(
    module: torch.nn.Module, given: dict[str, torch.Tensor], shapes: dict[str, dict[int, Dim]], path: Path
) -> dict[str, torch.Tensor]:
    """Write a part of a restorer as an ONNX model, and return what it makes of the inputs that it is traced with."""
    program = trace_module(module, given, {name: shapes.get(name) for name in given})
    made = module(**given)
    write_onnx(program, path, [*made])
    return made


def export_parts(folder: Path, place: Path, dtype: Dtype = "float32") -> Agreement:
    """Export a model in parts into a folder, each part checked before any stands there.

    Args:
        folder: of the model.
        place: folder to write into; made if it is new.
        dtype: in which matrices and kernels of the tiles' part are stored.

    Returns:
        How far whole and tiled pictures are from the model's in float32.

    Raises:
        ValueError: the model does not load.
        ArithmeticError: the parts do not compute what the model does.
    """
    model = load_restorer(folder).model
    with new_place(place) as unfinished:
        unfinished.mkdir()
        with quiet_exporters():
            write_parts(model, unfinished)
            if dtype != "float32":
                store_halved(unfinished / "restore.onnx", dtype)
        found = compare_parts(unfinished, model)
        check(found, is_exact=dtype == "float32")
        place.mkdir(exist_ok=True)
        for path in unfinished.iterdir():
            os.replace(path, place / path.name)
    return found


@torch.no_grad()
def compare_parts(folder: Path, reference: DPMambaIRModel) -> Agreement:
    """Compare a restorer in parts with the model that it was made from, whole and in tiles.

    Args:
        folder: of the parts.
        reference: the model in float32.
    """
    measure, embed, restore = (open_onnx(folder / f"{part}.onnx") for part in PARTS)
    sizes, differences = json.loads((folder / "parts.json").read_text(encoding="utf-8")), []
    for size, tile, overlap in (*((size, None, 0) for size in CHECKED_SIZES), (TILED_SIZE, TILE, OVERLAP)):
        degraded = draw_picture(*size)
        embedding = embed_in_parts(measure, embed, degraded, sizes["context"], sizes["window"])[
            "degradation_embedding"
        ]
        found = restore_in_parts(restore, degraded, embedding, sizes, tile, overlap)
        given = {"tile": tile, "overlap": overlap} if tile else {}
        differences.append((found - restore_tiled(reference, degraded, **given).reconstruction).flatten())
    difference = torch.cat(differences)
    error = difference.square().mean().item()
    return Agreement(difference.abs().max().item(), math.inf if error == 0 else -10 * math.log10(error))


@main.command()
def export_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a trained model.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    form: Annotated[Format, typer.Option("--format", help="onnx, or a package of torch's.")] = "onnx",
    dtype: Annotated[Dtype, typer.Option(help="ONNX: in which weights are stored.")] = "float32",
    int8: Annotated[Int8 | None, typer.Option(help="ONNX: matrix products in 8 bits.")] = None,
    strength: Annotated[bool, typer.Option("--strength", help="Give the program the input `strength`.")] = False,
    parts: Annotated[bool, typer.Option("--parts", help="ONNX: a folder with embedding and tiles apart.")] = False,
) -> None:
    """Export a trained restorer for onnxruntime, torch.export or AOTInductor, checked against the model.

    Exit status 0: the file stands in its place; 1: it failed its check; 2: it could not be made.
    """
    try:
        if parts and (form != "onnx" or int8 or strength):
            raise ValueError("`--parts` must go with --format onnx and --dtype alone, got more; leave the others out")
        if parts:
            found = export_parts(folder, output, dtype)
        else:
            found = export(folder, form, output, dtype=dtype, int8=int8, has_strength=strength)
    except (ArithmeticError, OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, ArithmeticError) else 2) from error
    against = f"against the model, largest deviation {found.deviation:.1e}, PSNR {found.psnr:.1f} dB"
    size = sum(path.stat().st_size for path in (output.glob("*") if parts else [output]))
    typer.echo(f"{output}: {size / 2**20:.2f} MiB; {against}")


if __name__ == "__main__":
    main()
