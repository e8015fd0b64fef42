"""Which sizes of a model's inputs vary: found by exporting it with all of them open, then by trying other sizes."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from export.errors import ExportError, one_line
from export.example import Place, few_rows, of_rows
from export.held_out import Arrays
from export.named_model import NamedModel
from export.ranges import Axes, Tried, check_limits, find_ranges

BATCHES = (1, 2, 7)
ROWS = (3, 5, 7, 11, 13, 17, 19)  # of the example at export, one that no other size is: it could be taken for that one


def batches_tried(arrays: Arrays, batch_axis: int | None) -> Iterator[tuple[str, Arrays]]:
    """The example in batches of several sizes, and words for that; without a batch axis as it is."""
    if batch_axis is None:
        yield "", arrays
    else:
        yield from ((f" for {rows} rows", of_rows(arrays, rows)) for rows in BATCHES)


def tensors_of(arrays: Arrays, model: NamedModel) -> list[Tensor]:
    """The inputs as the model takes them."""
    return [torch.from_numpy(arrays[name].copy()) for name in model.names]


def error_of(model: NamedModel, arrays: Arrays, *, may_be_nan: bool = True) -> str:
    """Why the model cannot be run on these inputs; nothing when it can.

    may_be_nan: False where an answer that is not a number is a failure too, as a deviation over one step gives.
    """
    try:
        with torch.no_grad():
            answers = model(*tensors_of(arrays, model))
    except Exception as error:  # whatever a module of anybody's raises
        return one_line(error)
    return "" if may_be_nan or not any(tensor.isnan().any() for tensor in answers) else "its answer is not a number"


def find_axes(
    model: NamedModel,
    traced: NamedModel,
    arrays: Arrays,
    extremes: Sequence[Arrays],
    batch_axis: int | None,
    most: Mapping[Place, int],
    fixed: Mapping[Place, str],
) -> tuple[ExportedProgram, Axes]:
    """Export with every size open that is not known to be fixed, and see which the model closes.

    traced: what is exported, the model itself or its function written otherwise. extremes: other inputs that it is
    asked to answer at every size. most: how large a size is to be, where the caller says so. Raises ExportError when
    the model cannot be exported or its rows are of a fixed number.
    """
    given = few_rows(arrays, batch_axis)
    if batch_axis == 0:
        sizes = {size for array in arrays.values() for size in array.shape[1:]}
        arrays = of_rows(arrays, next(rows for rows in ROWS if rows not in sizes))
    fixed = dict(fixed)
    for name, array in arrays.items():
        for axis, size in enumerate(array.shape):
            if size == 1 and (name, axis) not in fixed:
                fixed[name, axis] = "1 in the example, which stands for itself; give an example of 2 to have it vary"
    program, fixed = _exported(traced, arrays, batch_axis, fixed)
    groups, closed = _symbols(program, model, fixed)
    fixed |= closed
    batch = [places for places in groups.values() if batch_axis == 0 and any(axis == 0 for _, axis in places)]
    if batch_axis == 0:
        _check_rows(model, arrays, batch, fixed)
    open_sizes = {places: _upper(program, symbol) for symbol, places in groups.items() if places not in batch}
    tried: list[Tried] = [(given, lambda inputs: error_of(model, inputs, may_be_nan=False))]
    tried += [(few_rows(inputs, batch_axis), lambda inputs: error_of(model, inputs)) for inputs in extremes]
    varying, failed = find_ranges(tried, open_sizes, most)
    fixed |= failed
    if len(varying) + len(batch) < len(groups):  # what turned out not to vary is fixed in the graph too
        program, fixed = _exported(traced, arrays, batch_axis, fixed)
    check_limits(most, arrays, fixed)
    return program, Axes(varying, fixed)


def _exported(
    model: NamedModel, arrays: Arrays, batch_axis: int | None, fixed: Mapping[Place, str]
) -> tuple[ExportedProgram, dict[Place, str]]:
    """A program with as many open sizes as can be: all, or those that can be opened one after the other."""
    places = [(name, axis) for name in model.names for axis in range(arrays[name].ndim) if (name, axis) not in fixed]
    try:
        return _program(model, arrays, places), dict(fixed)
    except Exception as error:
        reason = one_line(error)
        rows = [place for place in places if batch_axis == 0 and place[1] == 0]
        try:
            program = _program(model, arrays, rows)
        except Exception as error:
            raise ExportError(f"torch.export cannot take the model: {one_line(error)}. {advice(error)}") from error
        fixed = dict(fixed)
        opened = list(rows)
        for place in places:
            if place in rows:
                continue
            try:
                program = _program(model, arrays, [*opened, place])
                opened.append(place)
            except Exception:
                fixed[place] = f"the model cannot be exported where it varies: {reason}"
        return program, fixed


def advice(reason: BaseException | str) -> str:
    """What to change, by what torch, torch.export or torch.onnx said."""
    said = f"{type(reason).__name__} {reason}"
    for sign, words in _ADVICE:
        if sign in said:
            return words
    return "What it names must be written with torch's tensor operations"


_OF_DATA = (
    "What forward does depends on the numbers of a tensor (an if, a loop, .item(), a mask that selects rows): compute "
    "both and choose by torch.where, or use torch.cond"
)
_NOT_IN_ONNX = "ONNX has no such operation: write it with others, or leave it to the caller of the service"
_ADVICE = (
    (
        "pack_padded_sequence",
        "Packed sequences have sizes that are numbers of a tensor: feed the padded rows and take what a mask leaves, "
        "or the state at each row's last step by gather",
    ),
    ("DataDependent", _OF_DATA),
    ("data-dependent", _OF_DATA),
    ("No ONNX function", _NOT_IN_ONNX),
    ("ConversionError", _NOT_IN_ONNX),
    (
        "value per channel when training",
        "A BatchNorm with track_running_stats=False normalises by its batch in eval too",
    ),
    ("numpy", "forward leaves torch for numpy: stay in torch"),
    ("FakeTensor", "forward makes tensors that are not part of the module: register them by register_buffer"),
)


def _program(model: NamedModel, arrays: Arrays, places: Sequence[Place]) -> ExportedProgram:
    shapes = tuple(
        {axis: Dim.AUTO if (name, axis) in places else Dim.STATIC for axis in range(arrays[name].ndim)}
        for name in model.names
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.CRITICAL)  # its error is raised
        with contextlib.redirect_stderr(io.StringIO()):  # where it prints the graph it has so far
            return torch.export.export(model, tuple(tensors_of(arrays, model)), dynamic_shapes=(shapes,))


def _symbols(
    program: ExportedProgram, model: NamedModel, fixed: Mapping[Place, str]
) -> tuple[dict[str, tuple[Place, ...]], dict[Place, str]]:
    """The places of each size that is still open, by its symbol; and those that the model has closed."""
    wanted = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
    groups: dict[str, tuple[Place, ...]] = {}
    closed: dict[Place, str] = {}
    for name, node in zip(model.names, nodes, strict=True):
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, int) or size.node.expr.is_number:
                closed.setdefault((name, axis), "the model's own size")
            elif size.node.expr.is_symbol:
                groups[str(size)] = (*groups.get(str(size), ()), (name, axis))
            else:
                closed[name, axis] = f"depends on another size ({size})"
    return groups, {place: reason for place, reason in closed.items() if place not in fixed}


def _upper(program: ExportedProgram, symbol: str) -> int | None:
    """The largest size that the program takes, where it says one."""
    for found, bounds in program.range_constraints.items():
        if str(found) == symbol:
            try:
                return int(bounds.upper)
            except (OverflowError, TypeError, ValueError, AttributeError):
                return None  # infinity
    return None


def _check_rows(
    model: NamedModel, arrays: Arrays, batch: Sequence[Sequence[Place]], fixed: Mapping[Place, str]
) -> None:
    places = {place for group in batch for place in group}
    inner = [place for place in places if place[1] != 0]
    missing = [name for name in model.names if (name, 0) not in places]
    if missing or inner:
        reason = fixed.get((missing[0], 0), "") if missing else f"the size of {inner[0][0]} along axis {inner[0][1]}"
        raise ExportError(
            f"the number of rows does not vary ({', '.join(missing) or 'it is also another size'}: {reason}): forward "
            "holds one fixed, as a reshape to a number, a state of so many rows or a loop over rows does. Take it from "
            "x.shape[0], or say batch_axis=None: requests are then never merged"
        )
    for rows in BATCHES:
        if error := error_of(model, of_rows(arrays, rows)):
            raise ExportError(
                f"the module does not take {rows} rows: {error}. {advice(error)}; or say batch_axis=None, where it is "
                "for one number of rows"
            )
