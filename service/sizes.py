"""The sizes of a request's inputs against the model's: each against its bounds, and those that must be equal."""

from service.errors import InvalidInputError, TooManyRowsError, shown
from service.manifest import InputTensor, Manifest
from service.protocol import RequestInput


def check_shape(shape: list[int], tensor: InputTensor, manifest: Manifest) -> None:
    """Raises InvalidInputError that names the input, its shape and what it must be, and TooManyRowsError."""
    if not tensor.fits(shape):
        raise InvalidInputError(
            f"input {tensor.name} has shape {shown(shape)}, model {manifest.name} takes {tensor.shape}, "
            "where -1 is any size from 1"
        )
    if manifest.batch_axis is not None and shape[manifest.batch_axis] > manifest.max_rows:
        raise TooManyRowsError(manifest.name, shape[manifest.batch_axis], manifest.max_rows)
    if tensor.max_shape and any(sent > most for sent, most in zip(shape, tensor.max_shape, strict=True)):
        raise InvalidInputError(f"input {tensor.name} has shape {shape}, its sizes may be at most {tensor.max_shape}")
    if tensor.min_shape and any(sent < least for sent, least in zip(shape, tensor.min_shape, strict=True)):
        raise InvalidInputError(f"input {tensor.name} has shape {shape}, its sizes must be at least {tensor.min_shape}")


def check_equal_sizes(inputs: list[tuple[RequestInput, InputTensor]], manifest: Manifest) -> None:
    """Raises InvalidInputError where two numbers of rows differ, or two sizes of one name."""
    if manifest.batch_axis is not None and len({sent.shape[0] for sent, _ in inputs}) > 1:
        rows = ", ".join(f"{sent.name} {sent.shape[0]}" for sent, _ in inputs)
        raise InvalidInputError(f"the inputs differ in rows: {rows}; the first size of each must be the same")
    seen: dict[str, tuple[int, str]] = {}
    for sent, tensor in inputs:
        for axis, name in enumerate(tensor.axes or ()):
            if name is None:
                continue
            size, where = seen.setdefault(name, (sent.shape[axis], f"input {sent.name} along axis {axis}"))
            if sent.shape[axis] != size:
                raise InvalidInputError(
                    f"input {sent.name} has size {sent.shape[axis]} along axis {axis}, {where} has {size}; "
                    "the model takes the two equal"
                )
