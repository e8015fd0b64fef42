"""What can go wrong with a request, and the one table that gives each error its HTTP status.

ServiceError
├── InvalidInputError          400
│   └── OverflowingInputError  400
├── ModelControlError          403
├── ModelNotFoundError         404
├── ModelLoadError             409
├── BodyTooLargeError          413
├── TooManyRowsError           413
├── OutputTooLargeError        413
├── UnsupportedEncodingError   415
├── QueueFullError             429, Retry-After
├── BodiesFullError            429, Retry-After
├── ClientGoneError            499, read by nobody
├── InferenceError             500
├── ModelNotReadyError         503, Retry-After where waiting helps
└── DeadlineError              504
"""

import reprlib


class ServiceError(Exception):
    """A request that is not answered; the message is what the client reads."""

    retry_after_seconds: int | None = None


class InvalidInputError(ServiceError):
    """The request is not what the protocol or the model's metadata asks for."""


class OverflowingInputError(InvalidInputError):
    """Values so large that an operation's variance is not a number of the largest datatype."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"x has values too large or too far apart for {operation}: their squares are beyond the largest FP64 number"
        )


class ModelControlError(ServiceError):
    """Models are loaded and unloaded on request only where the settings say so, and for no page of another site."""

    def __init__(self, origin: str | None = None) -> None:
        """origin: of the page that asked, where that is the reason."""
        super().__init__(
            "models are not loaded or unloaded on request: this server's setting MODEL_CONTROL is none, it must be "
            "explicit"
            if origin is None
            else f"a page of {shown(origin)} may not have models loaded or unloaded: its origin is neither this server "
            "nor in the setting CORS_ORIGINS"
        )


class ModelNotFoundError(ServiceError):
    """There is no model, or no version of it, by that name."""


class ModelLoadError(ServiceError):
    """What is in a model's folder cannot be served; what served before serves on."""

    def __init__(self, model_name: str, reason: str) -> None:
        super().__init__(f"model {model_name} was not loaded: {reason}")


class BodyTooLargeError(ServiceError):
    """The body, as sent or once inflated, is larger than the server takes."""

    def __init__(self, max_bytes: int, *, has_tensors: bool = True) -> None:
        """has_tensors: without, the most is fixed, unless the setting is less."""
        most = "this server takes (its setting MAX_BODY_BYTES)" if has_tensors else "this server takes without tensors"
        super().__init__(f"the body is larger than {max_bytes} bytes, the most {most}")


class TooManyRowsError(ServiceError):
    """More rows in one request than the model runs at once."""

    def __init__(self, model_name: str, rows: int, max_rows: int) -> None:
        super().__init__(
            f"the request has {rows} rows, model {model_name} takes at most {max_rows}: send several requests"
        )


class OutputTooLargeError(ServiceError):
    """The tensors asked for have more bytes than the server answers with."""

    def __init__(self, nbytes: int, max_output_bytes: int) -> None:
        super().__init__(
            f"the outputs have {nbytes} bytes, the server answers with at most {max_output_bytes} (its setting "
            "MAX_OUTPUT_BYTES): send fewer rows, or name fewer outputs"
        )


class UnsupportedEncodingError(ServiceError):
    """A Content-Encoding the server does not undo."""


class QueueFullError(ServiceError):
    """As many requests, or bytes of them, are waiting for the model as may wait."""

    retry_after_seconds = 1

    def __init__(self, model_name: str, waiting: str, setting: str) -> None:
        """waiting: how much, in words. setting: that bounds it."""
        super().__init__(f"model {model_name}: {waiting} (the server's setting {setting}): try again")


class BodiesFullError(ServiceError):
    """The bodies of other requests are as many bytes as all may be that are being received, inflated and decoded."""

    retry_after_seconds = 1

    def __init__(self, held_bytes: int, max_bytes: int) -> None:
        super().__init__(
            f"the bodies of other requests have {held_bytes} bytes, all together may have {max_bytes} (the server's "
            "setting MAX_BODIES_BYTES): try again"
        )


class ClientGoneError(ServiceError):
    """The client closed the connection before its answer."""


class InferenceError(ServiceError):
    """The model failed on a batch; what the runtime said is in the log."""

    def __init__(self, model_name: str) -> None:
        super().__init__(f"model {model_name} failed on this request; the server's log says why")


class ModelNotReadyError(ServiceError):
    """The model is still loading, was refused or unloaded, or is being closed."""

    def __init__(self, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineError(ServiceError):
    """The time in which the answer was of use has passed."""

    def __init__(self, model_name: str, timeout_s: float) -> None:
        super().__init__(
            f"model {model_name} had no answer within {timeout_s * 1e3:g} ms, "
            "the shorter of the request's parameter timeout and the server's setting REQUEST_TIMEOUT_MS"
        )


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring = 2, 4, 2, 60

STATUS: dict[type[ServiceError], int] = {
    InvalidInputError: 400,
    OverflowingInputError: 400,
    ModelControlError: 403,
    ModelNotFoundError: 404,
    ModelLoadError: 409,
    BodyTooLargeError: 413,
    TooManyRowsError: 413,
    OutputTooLargeError: 413,
    UnsupportedEncodingError: 415,
    QueueFullError: 429,
    BodiesFullError: 429,
    ClientGoneError: 499,
    InferenceError: 500,
    ModelNotReadyError: 503,
    DeadlineError: 504,
}


def shown(value: object) -> str:
    """A value of the client's, short enough for an error message, at a cost that its size does not change."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]  # the client speaks JSON
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
