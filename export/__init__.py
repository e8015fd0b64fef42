"""Models and their checkpoints -> artifacts: the only place that imports both torch and onnx."""

from export.errors import ExportError
from export.user_model import export_model

__all__ = ["ExportError", "export_model"]
