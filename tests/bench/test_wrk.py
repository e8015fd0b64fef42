"""wrk against the real service: what it counts, and what it refuses to count."""

import shutil

import numpy as np
import pytest

from bench.load import Load, answer_to, loaded
from bench.oip import BINARY, encoded

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian's package wrk)")
ROW = {"x": np.arange(768, dtype="f4")[None]}


def test_every_answer_is_counted_and_compared(address: str) -> None:
    load = Load(f"{address}/v2/models/layer_norm/infer", *encoded(ROW, BINARY, {}))
    body, headers = answer_to(load)
    found = loaded(load, connections=4, seconds=1, expected=body)
    assert found.requests > 0
    assert found.requests_per_second == pytest.approx(found.requests, rel=0.5)
    assert 0 < found.p50_s <= found.p99_s < 1
    with pytest.raises(RuntimeError, match="not every answer has the same bytes"):
        loaded(load, connections=1, seconds=1, expected=body + b" ")
    assert headers["content-length"] == str(len(body))


def test_a_load_that_is_refused_is_no_figure(address: str) -> None:
    with pytest.raises(RuntimeError, match="not every request was answered"):
        loaded(Load(f"{address}/v2/models/nothing/infer", b"{}"), connections=1, seconds=1)
