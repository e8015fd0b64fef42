"""Why an export stops."""


class ExportError(Exception):
    """The artifact cannot be made as promised; the message says which promise, by how much, and what to do."""
