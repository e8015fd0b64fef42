"""Models and their checkpoints -> artifacts: the only place that imports both torch and onnx."""

from export.errors import ExportError

try:
    from export.user_model import export_model
except ModuleNotFoundError as missing:
    if missing.name not in ("onnx", "onnxscript", "rich", "safetensors", "torch"):
        raise
    raise ModuleNotFoundError(
        f"there is no {missing.name}, which export needs: pip install --editable '.[cpu,export]'", name=missing.name
    ) from None

__all__ = ["ExportError", "export_model"]
