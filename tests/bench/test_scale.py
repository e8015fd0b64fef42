"""docs/scale.md: its tables are the script's, the script's arithmetic is right, and its sizes are real ones."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.costs import ENCODER, exchanged, requests, workloads
from bench.load import Load
from bench.report import BEGIN, END
from bench.scale import (
    FRAME_BYTES,
    PAGE,
    RATES,
    Accelerator,
    Assumptions,
    Cost,
    _rounded,
    costs,
    encoder_flops,
    flops,
    main,
    markdown,
    need,
    on_the_wire,
)
from bench.sections import SHAPE
from experiments.results import read_results
from models.transformer import Encoder, TransformerConfig
from tests.http.sockets import connected, request

ROOT = Path(__file__).parents[2]
FOUND, HTTP = (read_results(name, ROOT / "bench" / "results") for name in ("scale", "http"))
ASSUMED = Assumptions(busy=0.5, replica_cores=2, machine_cores=10, machine_gbit=1)
COMPUTES = Cost("x", "binary", cpu_seconds=1e-3, loop_seconds=1e-4, request_bytes=1000, answer_bytes=100)


def test_the_tables_of_the_page_are_the_scripts() -> None:
    written = (ROOT / PAGE).read_text().partition(BEGIN)[2].partition(END)[0]
    assert written.strip() == markdown(FOUND, HTTP, Assumptions(), Accelerator()), "python -m bench.scale --write"


def test_cores_replicas_and_machines_follow_from_the_cost_of_a_request() -> None:
    it = need(COMPUTES, 30_000, ASSUMED)
    assert (it.cores, it.replicas, it.machines, it.limit) == (pytest.approx(60), 30, 6, "computing")
    assert it.gbit == (pytest.approx(30_000 * 1090 * 8 / 1e9), pytest.approx(30_000 * 190 * 8 / 1e9))
    assert it.packets == 60_000
    assert need(COMPUTES, 1, ASSUMED).replicas == need(COMPUTES, 1, ASSUMED).machines == 1


def test_the_network_limits_where_it_gives_out_first() -> None:
    large = replace(COMPUTES, answer_bytes=100_000)
    it = need(large, 30_000, ASSUMED)
    assert it.limit == "network"
    assert it.machines == math.ceil(30_000 * on_the_wire(100_000) * 8 / 1e9 / 0.5)
    assert need(large, 30_000, replace(ASSUMED, machine_gbit=1000)).limit == "computing"


def test_the_event_loop_limits_where_it_takes_most_of_a_request() -> None:
    assert need(replace(COMPUTES, loop_seconds=9e-4), 30_000, ASSUMED).limit == "event loop"


@pytest.mark.parametrize(("size", "segments"), [(1, 1), (1448, 1), (1449, 2), (33_165, 23)])
def test_a_message_takes_a_frame_for_each_segment(size: int, segments: int) -> None:
    assert on_the_wire(size) == size + segments * FRAME_BYTES


def test_bytes_are_those_that_go_over_the_wire(address: str) -> None:
    asked = request("Connection: close")
    with connected(address) as client:
        client.socket.sendall(asked)
        answered = client.file.read()
    head, _, body = asked.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = dict(each.split(": ") for each in lines if not each.startswith(("Host", "Content-Length")))
    load = Load(address + line.split()[1], body, headers)
    sent, got = exchanged(load)
    assert sent == len(asked) + len(address.removeprefix("http://")) - len("test")
    assert got == len(answered)


def test_every_form_of_a_request_is_answered(address: str) -> None:
    for name, (_, loads) in workloads().items():
        if name == ENCODER:
            continue  # is in no repository yet
        for form, load in loads.items():
            path = load.url.split(":", 2)[2].partition("/")[2]
            answer = httpx.post(f"{address}/{path}", content=load.body, headers=load.headers)
            assert answer.status_code == 200, (name, form, answer.text)
    assert set(requests("m", {})) == set(FOUND["costs"][ENCODER])


def test_work_is_that_of_the_models_weights() -> None:
    config = TransformerConfig(placement="post")
    products = sum(2 * weight.numel() for weight in Encoder(config).parameters() if weight.dim() == 2)
    tokens = SHAPE[1]
    attention = config.n_layers * 2 * 2 * tokens**2 * config.d_model
    assert flops()[ENCODER] == tokens * products + attention
    assert encoder_flops(2 * tokens, 256, 1024, 6) > 2 * flops()[ENCODER]  # attention is quadratic
    mlp = json.loads((ROOT / "artifacts/ln-mlp-digits/1/manifest.json").read_text())["config"]
    sizes = [mlp["input_size"], *mlp["hidden_sizes"], mlp["output_size"]]
    assert flops()["ln-mlp-digits"] == sum(2 * a * b for a, b in pairwise(sizes))


def test_what_was_measured_is_whole() -> None:
    assert set(FOUND["costs"]) == set(flops())
    for cost in costs(FOUND):
        assert 0 < cost.loop_seconds <= 1.1 * cost.cpu_seconds  # the clock of threads is coarser
        assert min(cost.request_bytes, cost.answer_bytes) > 300
    assert [need(cost, RATES[-1], Assumptions()).cores for cost in costs(FOUND)] == [
        pytest.approx(RATES[-1] / RATES[0] * need(cost, RATES[0], Assumptions()).cores) for cost in costs(FOUND)
    ]


@given(st.floats(1e-6, 1e12))
def test_a_rounded_number_is_within_five_per_cent(number: float) -> None:
    assert float(_rounded(number).replace(" ", "")) == pytest.approx(number, rel=0.0501)


def test_a_price_is_asked_for_and_never_assumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([]) == 0
    assert "price" not in capsys.readouterr().out
    assert main(["--core-hour-price", "0.04"]) == 0
    assert "price" in capsys.readouterr().out
