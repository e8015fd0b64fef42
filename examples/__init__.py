"""Models to export as your own: ``python -m export examples.convnext_block:build --help``."""
