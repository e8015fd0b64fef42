"""What the project promises, over real sockets: nobody else's traffic changes an answer's bits."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from export.held_out import digits

CLIENTS = 32
ROWS = 64


def infer(client: triton.InferenceServerClient, model: str, rows: np.ndarray) -> np.ndarray:
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return client.infer(model, [tensor]).as_numpy("logits")


def statistics(address: str, model: str) -> dict[str, Any]:
    return httpx.get(f"{address}/v2/models/{model}/stats").json()["model_stats"][0]


@pytest.mark.parametrize("model", ["ln-mlp-digits", "bn-mlp-digits"])
def test_an_answer_is_bitwise_the_same_alone_and_among_32_clients(serve: Any, model: str) -> None:
    images = digits().test_images[:ROWS]
    # A short wait makes sure that requests do meet; it decides who shares a run, never what comes out.
    with serve(max_queue_delay_ms=5) as address:
        host = address.removeprefix("http://")
        with triton.InferenceServerClient(host) as client:
            alone = [infer(client, model, images[row : row + 1])[0].tobytes() for row in range(ROWS)]
        before = statistics(address, model)

        def one_client(seed: int) -> int:
            """Every row, in an order and in client batches of its own; how many came back with other bits."""
            rng = random.Random(seed)  # noqa: S311  # a seeded order, not a secret
            order = rng.sample(range(ROWS), ROWS)
            mismatching = 0
            with triton.InferenceServerClient(host) as client:
                while order:
                    chosen = [order.pop() for _ in range(min(len(order), rng.choice((1, 1, 1, 2, 3, 5, 8))))]
                    answers = infer(client, model, images[chosen])
                    mismatching += sum(
                        answer.tobytes() != alone[row] for row, answer in zip(chosen, answers, strict=True)
                    )
            return mismatching

        with ThreadPoolExecutor(CLIENTS) as pool:
            mismatching = sum(pool.map(one_client, range(CLIENTS)))
        after = statistics(address, model)
    rows = after["inference_count"] - before["inference_count"]
    batches = after["execution_count"] - before["execution_count"]
    requests = after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"]
    print(f"{model}: {rows} rows in {requests} requests and {batches} runs, {rows / batches:.1f} rows a run")
    assert mismatching == 0
    assert rows == CLIENTS * ROWS
    assert rows / batches > 1
    assert batches < requests  # requests of different clients did share runs
