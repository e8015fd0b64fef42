"""Parts alone, by pytest-benchmark: `pytest bench/micro`."""
