"""Inputs and outputs as the manifest describes them: datatypes, which sizes vary and how far, and which are equal."""

from collections.abc import Sequence

from onnx import ModelProto

from export.errors import ExportError
from export.example import Place, datatype_of
from export.held_out import Array, Arrays
from export.limits import Bounds
from export.ranges import Axes, Axis
from service.manifest import InputTensor, OutputTensor

# TensorProto's numbers by the protocol's names
ONNX_TYPES = {
    "FP32": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "BOOL": 9, "FP16": 10,
    "FP64": 11, "UINT32": 12, "UINT64": 13,
}  # fmt: skip


def inputs_of(
    rows: Arrays, varying: Sequence[Axis], batch_axis: int | None, max_rows: int, bounds: Bounds
) -> list[InputTensor]:
    """Every input: its sizes as far as they vary, and between which numbers it lies."""
    return [_input(name, array, varying, batch_axis, max_rows, bounds.get(name)) for name, array in rows.items()]


def _input(
    name: str,
    rows: Array,
    varying: Sequence[Axis],
    batch_axis: int | None,
    max_rows: int,
    bounds: tuple[float, float] | None,
) -> InputTensor:
    shape, least, most = list(rows.shape), list(rows.shape), list(rows.shape)
    axes: list[str | None] = [None] * rows.ndim
    for axis in varying:
        for each, along in axis.places:
            if each == name:
                shape[along], least[along], most[along] = -1, axis.least, axis.most
                axes[along] = size_name(axis.places[0]) if len(axis.places) > 1 else None
    varies = -1 in shape
    if batch_axis == 0:
        shape[0], least[0], most[0] = -1, 1, max_rows
    low, high = bounds or (None, None)
    return InputTensor(
        name=name,
        datatype=datatype_of(rows),
        shape=shape,
        minimum=low,
        maximum=high,
        min_shape=least if any(size == -1 and end > 1 for size, end in zip(shape, least, strict=True)) else None,
        max_shape=most if varies else None,
        axes=axes if any(axes) else None,
    )


def size_name(place: Place) -> str:
    """What a size that varies is called, after the first of its places."""
    return f"{place[0]}_{place[1]}"


def outputs_of(graph: ModelProto, batch_axis: int | None) -> list[OutputTensor]:
    """As the graph says them: a size that is a number is fixed. Raises ExportError where there are no rows."""
    datatypes = {onnx_type: name for name, onnx_type in ONNX_TYPES.items()}
    found = []
    for tensor in graph.graph.output:
        datatype = datatypes.get(tensor.type.tensor_type.elem_type)
        if datatype is None:
            raise ExportError(f"output {tensor.name} has a datatype that cannot be served; cast it, as by .float()")
        sizes = [size.dim_value or -1 for size in tensor.type.tensor_type.shape.dim]
        if batch_axis == 0 and sizes[:1] != [-1]:
            raise ExportError(
                f"output {tensor.name} has shape {sizes}, its first size must be the number of rows: transpose it, "
                "leave out what belongs to no row (a loss), or say batch_axis=None: requests are then never merged"
            )
        found.append(OutputTensor(name=tensor.name, datatype=datatype, shape=sizes))
    return found


def sizes_in_words(arrays: Arrays, axes: Axes, batch_axis: int | None, max_rows: int) -> dict[str, str]:
    """For each size of each input whether it varies, in words."""
    words: dict[str, str] = {}
    for name, array in arrays.items():
        for place in ((name, axis) for axis in range(array.ndim)):
            key = f"{name}[{place[1]}]"
            if batch_axis == 0 and place[1] == 0:
                words[key] = f"rows, 1 to {max_rows}"
            elif place in axes.fixed:
                words[key] = f"{array.shape[place[1]]}: {axes.fixed[place]}"
        for axis in axes.varying:
            for place in axis.places:
                if place[0] == name:
                    words[f"{name}[{place[1]}]"] = f"varies, {axis.least} to {axis.most}"
    return dict(sorted(words.items()))
