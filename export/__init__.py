"""Models and their checkpoints -> artifacts: the only place that imports both torch and onnx."""
