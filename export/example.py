"""Example inputs of a model: what they may be, other sizes and more rows of them, and the files they are read from."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from export.errors import ExportError
from export.held_out import Array, Arrays
from service.certificate import ORT_TYPES

Place = tuple[str, int]  # an input and one of its axes

SEED = 7
FEW = 4  # rows
JITTER = 0.05  # relative: rows are to differ in more than what they are mixed of
_KINDS = {"b": "BOOL", "i": "INT", "u": "UINT", "f": "FP"}
_WRITTEN = re.compile(r"(?P<name>\w+)=(?P<datatype>[A-Z]+\d*)\[(?P<shape>[\d, ]*)\](:(?P<low>[^:]+):(?P<high>[^:]+))?")


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's datatype. Raises ExportError when it has none."""
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    datatype = _KINDS.get(kind, array.dtype.name) + ("" if kind == "b" else str(bits))
    if datatype not in ORT_TYPES:
        raise ExportError(f"datatype {array.dtype} cannot be served; what can: {', '.join(ORT_TYPES)}")
    return datatype


def arrays_of(inputs: Mapping[str, Tensor | Array]) -> Arrays:
    """Tensors or arrays by name -> arrays. Raises ExportError when one is neither, or of a datatype not served."""
    if not isinstance(inputs, Mapping):
        raise ExportError(f"inputs are a {type(inputs).__name__}, they must be a dict of tensors by name")
    arrays: Arrays = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            if value.dtype == torch.bfloat16:
                raise ExportError(
                    f"input {name} is bfloat16, which has no datatype in the protocol: give it as float32"
                )
            array = value.detach().cpu().numpy()
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
        else:
            raise ExportError(f"input {name} is a {type(value).__name__}, it must be a tensor or an array")
        try:
            datatype_of(array)
        except ExportError as error:
            raise ExportError(f"input {name}: {error}") from error
        if 0 in array.shape:
            raise ExportError(f"input {name} has shape {list(array.shape)}: an example must hold numbers")
        # Minus infinity is what a mask that is added has.
        if array.dtype.kind == "f" and (wrong := array[np.isnan(array) | np.isposinf(array)]).size:
            raise ExportError(f"input {name} has {wrong[0]} in it; an example holds numbers")
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)  # of no axes, it would get one
    if not arrays:
        raise ExportError("there are no example inputs; a model is exported by running it on some")
    return arrays


def check_rows(arrays: Arrays) -> None:
    """Raises ExportError where they have not equally many rows along the first axis."""
    counts = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or None in counts.values():
        raise ExportError(
            f"the inputs' first sizes are {counts}; along batch_axis 0 each input has as many rows as the others. "
            "Give what all rows share a row each (expand), make it a buffer of the module, or say batch_axis=None"
        )


def resized(arrays: Arrays, sizes: Mapping[Place, int]) -> Arrays:
    """The same values at other sizes: cut off, or begun again from the first."""
    changed = dict(arrays)
    for (name, axis), size in sizes.items():
        array = changed[name]
        changed[name] = array.take(np.arange(size) % array.shape[axis], axis)
    return changed


def of_rows(arrays: Arrays, rows: int) -> Arrays:
    """So many rows, the first again after the last."""
    return resized(arrays, {(name, 0): rows for name in arrays})


def few_rows(arrays: Arrays, batch_axis: int | None) -> Arrays:
    """The first rows, of which there are enough to differ in what a size must be for them."""
    return {name: array[:FEW] for name, array in arrays.items()} if batch_axis == 0 else arrays


def joined(parts: list[Arrays]) -> Arrays:
    """The rows of each part, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows_to_measure(arrays: Arrays, data: object, samples: int, batch_axis: int | None) -> Arrays:
    """What is measured on: the example, the data, and rows mixed of them. Raises ExportError.

    data: rows by input name, or a file of them, or None.
    """
    if samples < 0:
        raise ExportError(f"samples is {samples}, it must be at least 0")
    if batch_axis not in (0, None):
        raise ExportError(
            f"batch_axis is {batch_axis!r}, it must be 0 or None: wrap the module in one that transposes its inputs"
        )
    if isinstance(data, str | Path):
        data = read_arrays(Path(data))
    more = None if data is None else arrays_of(data)  # type: ignore[arg-type]
    if batch_axis is None:
        if more is not None:
            raise ExportError("data are rows, of which there are none with batch_axis None")
        return arrays
    check_rows(arrays)
    parts = [arrays]
    if more is not None:
        for name, array in arrays.items():
            found = more.get(name)
            if found is None or found.dtype != array.dtype or found.shape[1:] != array.shape[1:]:
                said = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise ExportError(f"{name} of the data is {said}, it must be {array.dtype} [rows, {array.shape[1:]}]")
        if unknown := sorted(more.keys() - arrays.keys()):
            raise ExportError(f"the data have {', '.join(unknown)}, the inputs are {', '.join(arrays)}")
        parts.append({name: more[name] for name in arrays})
        check_rows(parts[1])
    if samples:
        parts.append(mixed_rows(joined(parts), samples))
    rows = joined(parts)
    if all(array[0].tobytes() == array[1:2].tobytes() for array in rows.values()):
        raise ExportError(
            "the first two rows of the example are equal, or there is but one: between equal rows no mixing up would "
            "show; give an example of two different rows at least"
        )
    return rows


def mixed_rows(arrays: Arrays, count: int) -> Arrays:
    """More rows that lie where these lie.

    Real numbers: a point between two rows, moved by up to 5 %, between the smallest and the largest number there is.
    Integers: at each position that of some row. Booleans, as of a mask: those of one row.
    """
    rng, rows = np.random.default_rng(SEED), len(next(iter(arrays.values())))
    first, second, share = rng.integers(rows, size=count), rng.integers(rows, size=count), rng.random(count)
    more: Arrays = {}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            weight = share.reshape(-1, *[1] * (array.ndim - 1))
            between = array[first] * weight + array[second] * (1 - weight)
            moved = between * rng.uniform(1 - JITTER, 1 + JITTER, between.shape)
            more[name] = np.clip(moved, array.min(), array.max()).astype(array.dtype)
        elif array.dtype.kind == "b":
            more[name] = array[first]
        else:
            source = rng.integers(rows, size=(count, *array.shape[1:]))
            more[name] = np.take_along_axis(array, source, axis=0)
    return more


def read_arrays(file: Path) -> Arrays:
    """The arrays of a ``.npz`` or ``.safetensors`` file by name. Raises ExportError when it is not one."""
    try:
        if file.suffix == ".safetensors":
            return dict(safetensors.numpy.load_file(file))
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ExportError(f"{file} cannot be read: {error}") from error
    raise ExportError(f"{file} is no .npz and no .safetensors file")


def array_as_written(text: str) -> Arrays:
    """``x=FP32[2,64]`` -> seeded N(0, 1); with ``:low:high`` behind it, uniform between the two, both of them included.

    Integers need the two: which ones a model takes cannot be guessed. Raises ExportError.
    """
    found = _WRITTEN.fullmatch(text)
    if not found or found["datatype"] not in ORT_TYPES:
        raise ExportError(
            f"{text!r} is no example; it is a .npz or .safetensors file, or as in x=FP32[2,64], ids=INT64[2,16]:0:102; "
            f"datatypes are {', '.join(ORT_TYPES)}"
        )
    shape = [int(size) for size in found["shape"].replace(" ", "").split(",") if size]
    if 0 in shape:
        raise ExportError(f"{text!r} has no numbers in it: an example must hold some")
    dtype = np.dtype(found["datatype"].lower().replace("fp", "float"))
    rng = np.random.default_rng(SEED)
    if dtype.kind == "b":
        return {found["name"]: rng.integers(0, 2, shape).astype(bool)}
    if found["low"] is None:
        if dtype.kind in "iu":
            raise ExportError(
                f"{text!r}: say which integers the model takes, the first and the last, as in {text}:0:102"
            )
        return {found["name"]: rng.standard_normal(shape).astype(dtype)}
    try:
        if dtype.kind == "f":
            low, high = float(found["low"]), float(found["high"])
            return {found["name"]: rng.uniform(low, high, shape).astype(dtype)}
        first, last = int(found["low"]), int(found["high"])
        array = rng.integers(first, last, shape, dtype=dtype, endpoint=True)
    except (ValueError, OverflowError) as error:
        raise ExportError(f"{text!r}: no numbers lie between {found['low']} and {found['high']}: {error}") from error
    array.flat[:2] = [first, last][: array.size]  # they become the bounds that the service checks
    return {found["name"]: array}
