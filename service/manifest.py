"""What an artifact says of itself: ``manifest.json``, which export writes and the service reads, by one type."""

import base64
import errno
import itertools
import math
import operator
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from service.protocol import DATATYPES, Array, Arrays, TensorMetadata

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.safetensors"
CERTIFICATES_FILE = "certificates.json"  # of the operations
MAX_FILE_BYTES = 2 * 2**30 - 1  # of graph and weights: onnxruntime takes a graph from memory up to protobuf's limit
MAX_MANIFEST_BYTES = 16 * 2**20  # a manifest holds a probe's outputs, not a data set

# Claims that compare with torch.
OF_TORCH = frozenset(
    {"train_eval_identical", "torch_onnx_parity", "float64_error", "metric_preserved", "full_precision"}
)

# A name is looked up, never joined to a path; the pattern keeps it printable in a URL, a label and a log all the same.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODEL_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class ArtifactError(Exception):
    """An artifact cannot be served; the message is the reason clients read, so it names no path of the machine."""


def read_regular_file(folder: Path, name: str, max_bytes: int) -> bytes:
    """The content of ``folder/name``. Raises ArtifactError when it is missing, a link, no file, or too large."""
    try:
        # A link could lead out of the folder; a pipe would keep us waiting.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(f"{name} is not a regular file")
            if status.st_size > max_bytes:
                raise ArtifactError(f"{name} has {status.st_size} bytes, at most {max_bytes} are read")
            with open(descriptor, "rb", closefd=False) as file:  # of a descriptor
                return file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise ArtifactError(f"{name} is missing") from error
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise ArtifactError(f"{name} cannot be read: {reason}") from error


def reasons(error: ValidationError) -> str:
    """What is wrong with a document, by field; the first three, and how many more there are."""
    wrong = [
        f"{'.'.join(map(str, each['loc'])) or 'the document'}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False)
    ]
    return "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")


def _dimension(size: int) -> int:
    if size != -1 and size < 1:
        raise ValueError(f"a size is {size}, it must be -1 (varies) or at least 1")
    return size


def _datatype(name: str) -> str:
    if name not in DATATYPES:
        raise ValueError(f"datatype is {name!r}, it must be one of {', '.join(DATATYPES)}")
    return name


Datatype = Annotated[str, AfterValidator(_datatype)]
Dimension = Annotated[int, AfterValidator(_dimension)]
Flag = Annotated[bool, Field(exclude_if=operator.not_)]  # written down only where it is true
Checked = Literal["export", "start"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    """A part of the manifest: what it does not know it refuses, so that a misspelt field is not silently dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(_Part):
    """Name, datatype and shape of an input or output; -1 is a size that varies."""

    name: str = Field(min_length=1)
    datatype: Datatype
    shape: list[Dimension]

    def metadata(self) -> TensorMetadata:
        """The part of it that the protocol's model metadata shows."""
        return TensorMetadata(self.name, self.datatype, self.shape)


class OutputTensor(Tensor):
    """An output; one that is ``on_request`` is answered only when the request names it."""

    on_request: Flag = False

    def metadata(self) -> TensorMetadata:
        """As of any tensor, and whether it must be named."""
        return replace(super().metadata(), on_request=self.on_request or None)


class InputTensor(Tensor):
    """An input, with what it may hold; those that are ``optional`` are zeros when all of them are left out.

    A bound that is not given is not checked. axes: names of its sizes, None where one has none; in a request all sizes
    of one name are equal, in this input and in the others.
    """

    optional: Flag = False
    minimum: float | None = None
    maximum: float | None = None
    min_shape: list[int] | None = None
    max_shape: list[int] | None = None
    axes: list[str | None] | None = None
    scale: str | None = None
    meaning: str | None = None

    def metadata(self) -> TensorMetadata:
        """As of any tensor, and whether it may be left out."""
        return replace(super().metadata(), optional=self.optional or None)

    @model_validator(mode="after")
    def _what_is_said_of_sizes_has_the_rank_of_shape(self) -> Self:
        for field in ("min_shape", "max_shape", "axes"):
            said = getattr(self, field)
            if said is not None and len(said) != len(self.shape):
                raise ValueError(f"{field} {said} has not the rank of shape {self.shape}")
        return self

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the rank and the fixed sizes are its own, and no size is below 1."""
        return len(shape) == len(self.shape) and all(
            (sent >= 1) if size == -1 else (sent == size) for sent, size in zip(shape, self.shape, strict=True)
        )


class Dataset(_Part):
    """The data on which the metric was measured."""

    name: str
    sha256: Sha256
    split: str


class Metric(_Part):
    """The held-out metric, by torch and by the runtime as it serves."""

    name: str
    torch: float
    served: float


class RecordedTensor(_Part):
    """An input's values as they were given: base64 of its numbers, row by row, little-endian."""

    shape: list[Annotated[int, Field(ge=1)]]
    data: str

    @classmethod
    def of(cls, array: Array) -> Self:
        """As it is stored."""
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return cls(shape=list(array.shape), data=base64.b64encode(little_endian.tobytes()).decode())

    def array(self, datatype: str) -> Array:
        """The values. Raises :class:`ArtifactError` when they are not as many as the shape says."""
        dtype = DATATYPES[datatype]
        try:
            content = base64.b64decode(self.data, validate=True)
        except ValueError as error:
            raise ArtifactError(f"the probe's inputs in {MANIFEST_FILE} are not base64") from error
        if len(content) != math.prod(self.shape) * dtype.itemsize:
            raise ArtifactError(f"the probe's inputs in {MANIFEST_FILE} are not {datatype} {self.shape}")
        return np.frombuffer(content, dtype).reshape(self.shape).copy()  # what reads it may want to write to it


class Probe(_Part):
    """Inputs and the outputs torch gave for them, so that the service can compare itself with torch.

    by: what gave them, where it was not torch: onnxruntime, of a graph that came without its module. shapes: of the
    first input. inputs: where numbers drawn from the seed could lie outside of what the model is for, the inputs
    themselves, one entry a shape.
    """

    by: Annotated[Literal["torch", "onnxruntime"], Field(exclude_if=lambda by: by == "torch")] = "torch"
    seed: int
    shapes: list[list[int]] = Field(min_length=1)
    inputs: list[dict[str, RecordedTensor]] | None = None
    outputs: str = Field(description="all outputs for all shapes, one after the other: base64 of float32")
    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)

    @staticmethod
    def pack(outputs: Sequence[Arrays]) -> str:
        """Outputs for each shape -> the text stored in the manifest."""
        flat = [array.astype("<f4") for arrays in outputs for array in arrays.values()]
        return base64.b64encode(b"".join(array.tobytes() for array in flat)).decode()

    def expected(self) -> Array:
        """The stored outputs, flat. Raises :class:`ArtifactError` when they cannot be read."""
        try:
            return np.frombuffer(base64.b64decode(self.outputs, validate=True), "<f4")
        except ValueError as error:
            raise ArtifactError(f"the probe's outputs in {MANIFEST_FILE} are not base64 of float32") from error


class Claim(_Part):
    """One line of a certificate: the claim, whether it holds, the figures that say so, and how they were taken."""

    claim: str
    holds: bool
    measured: dict[str, Any]
    how: str
    checked: Checked


class Certificate(_Part):
    """What was measured of one model: the answer of GET /v1/models/{name}/certificate."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_name: str
    model_version: str
    claims: list[Claim]


class Certificates(RootModel[list[Certificate]]):
    """The certificates of the operations, which have no manifest: their graphs ship with the service."""


class Manifest(_Part):
    """``manifest.json``: the contract between export and service."""

    name: str = Field(pattern=f"^{MODEL_NAME.pattern}$")
    version: str = Field(pattern=f"^{MODEL_VERSION.pattern}$")
    platform: Literal["onnx_onnxv1"] = "onnx_onnxv1"
    batch_axis: Literal[0] | None = Field(None, description="requests are merged along it; null: never merged")
    max_rows: int = Field(ge=1)
    inputs: list[InputTensor] = Field(min_length=1)
    outputs: list[OutputTensor] = Field(min_length=1)
    alphabet: str | None = None
    task: str
    config: dict[str, Any]
    dataset: Dataset | None = None
    metric: Metric | None = None
    files: dict[str, Sha256]
    versions: dict[str, str | int]
    probe: Probe
    certificate: Certificate

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if set(self.files) != {GRAPH_FILE, WEIGHTS_FILE}:
            raise ValueError(f"files are {sorted(self.files)}, they must be {GRAPH_FILE} and {WEIGHTS_FILE}")
        for tensor in (*self.inputs, *self.outputs):
            if self.batch_axis is not None and tensor.shape[:1] != [-1]:
                raise ValueError(f"{tensor.name} has shape {tensor.shape}; with batch_axis 0 its first size must be -1")
        first, *others = self.inputs
        if first.optional:
            raise ValueError(f"{first.name} is optional, which the first input cannot be")
        for tensor in others:
            if tensor.optional and -1 in tensor.shape[self.batch_axis is not None :]:
                raise ValueError(f"{tensor.name} is optional and varies in size: its zeros could be of any size")
            if self.probe.inputs is None and -1 in tensor.shape[len(first.shape) :]:
                raise ValueError(f"{tensor.name} {tensor.shape} varies where {first.name} {first.shape} has no axis")
        if all(tensor.on_request for tensor in self.outputs):
            raise ValueError("every output is on_request, one must always be answered")
        for tensors in (self.inputs, self.outputs):
            if len({tensor.name for tensor in tensors}) != len(tensors):
                raise ValueError("two tensors have the same name")
        if self.probe.inputs is not None:
            names = {tensor.name for tensor in self.inputs}
            if any(set(batch) != names for batch in self.probe.inputs):
                raise ValueError(f"the probe's inputs are not those of the model, {', '.join(sorted(names))}")
            for tensor, batch in itertools.product(self.inputs, self.probe.inputs):
                if not tensor.fits(recorded := batch[tensor.name].shape):
                    raise ValueError(f"the probe has {tensor.name} {recorded}, which does not fit {tensor.shape}")
            if [batch[first.name].shape for batch in self.probe.inputs] != self.probe.shapes:
                raise ValueError(f"the probe's inputs have not the shapes {self.probe.shapes} of {first.name}")
        certificate = self.certificate
        if (certificate.model_name, certificate.model_version) != (self.name, self.version):
            raise ValueError(f"the certificate is that of {certificate.model_name}/{certificate.model_version}")
        if len({claim.claim for claim in certificate.claims}) != len(certificate.claims):
            raise ValueError("the certificate makes a claim twice")
        if self.probe.by != "torch" and OF_TORCH & {claim.claim for claim in certificate.claims}:
            raise ValueError(f"the probe is by {self.probe.by}, the certificate has claims that only torch can make")
        if any(claim.checked != "export" for claim in certificate.claims):
            raise ValueError("the certificate says of a claim that it was checked at start, which only a service can")
        return self

    @property
    def merges(self) -> bool:
        """Whether requests may share a run: they have rows, and the export did not find that one changes another."""
        change = any(claim.claim == "batch_invariant" and not claim.holds for claim in self.certificate.claims)
        return self.batch_axis is not None and not change

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``folder/manifest.json``. Raises :class:`ArtifactError` that names the field which is wrong."""
        try:
            return cls.model_validate_json(read_regular_file(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES))
        except ValidationError as error:
            raise ArtifactError(f"{MANIFEST_FILE}: {reasons(error)}") from None  # pydantic says no more

    def to_json(self) -> str:
        """The text of ``manifest.json``; fields that are not set are left out."""
        return self.model_dump_json(indent=1, exclude_none=True) + "\n"
