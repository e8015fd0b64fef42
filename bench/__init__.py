"""Measures the service under load: ratios taken in one run, interleaved, so that a machine's drift cancels."""
