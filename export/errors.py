"""Why an export stops."""


class ExportError(Exception):
    """The artifact cannot be made as promised; the message says which promise, by how much, and what to do."""


def one_line(error: BaseException) -> str:
    """Kind and first line of an error, as a reason to be read."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0][:300]}" if words else type(error).__name__
