"""Layer-normalised networks in PyTorch, written to be read: no file access, no ONNX, no HTTP."""
