"""Language models through tritonclient: any length, any batch, torch's answers, and the same bits alone."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from export.catalog import CATALOG
from export.certify import forward
from export.checkpoint import load_checkpoint
from export.topics import encode, topics
from service.manifest import WEIGHTS_FILE, Manifest

ARTIFACTS = Path(__file__).parents[2] / "artifacts"


def infer(client: triton.InferenceServerClient, name: str, ids: np.ndarray) -> np.ndarray:
    tensor = triton.InferInput("ids", list(ids.shape), "INT64")
    tensor.set_data_from_numpy(ids)
    return client.infer(name, [tensor]).as_numpy("logits")


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("time", [1, 7, 300])
@pytest.mark.parametrize("name", ["ln-lstm-charlm", "admin-charlm"])
def test_any_length_is_answered_as_torch_answers_and_bitwise_as_alone(
    address: str, name: str, time: int, batch: int
) -> None:
    spec = CATALOG[name]
    model = spec.build()
    load_checkpoint(model, ARTIFACTS / name / spec.version / WEIGHTS_FILE)
    text = topics().test_ids
    ids = np.stack([text[997 * row : 997 * row + time] for row in range(batch)])
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        logits = infer(client, name, ids)
        alone = np.concatenate([infer(client, name, ids[row : row + 1]) for row in range(batch)])
    by_torch = forward(model.eval(), ids)
    print(f"{name} T {time} batch {batch}: max_abs {np.abs(logits - by_torch).max():.2e}")
    assert logits.tobytes() == alone.tobytes()
    np.testing.assert_allclose(logits, by_torch, rtol=1e-4, atol=1e-4)


STATES = {"ln-rnn-charlm": "h", "ln-lstm-charlm": "hc", "ln-gru-charlm": "h", "lstm-charlm": "hc"}


@pytest.mark.parametrize(("name", "letters"), STATES.items())
def test_a_text_cut_in_pieces_whose_state_is_handed_on_gives_the_bits_of_the_whole(
    address: str, name: str, letters: str
) -> None:
    def logits_and_state(
        client: triton.InferenceServerClient, ids: np.ndarray, before: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        inputs = [triton.InferInput("ids", list(ids.shape), "INT64").set_data_from_numpy(ids)]
        for letter, array in before.items():
            inputs.append(triton.InferInput(f"initial_{letter}", list(array.shape), "FP32").set_data_from_numpy(array))
        wanted = [triton.InferRequestedOutput(each) for each in ("logits", *(f"final_{letter}" for letter in letters))]
        answer = client.infer(name, inputs, outputs=wanted)
        return answer.as_numpy("logits"), {letter: answer.as_numpy(f"final_{letter}") for letter in letters}

    ids = topics().test_ids[:150].reshape(3, 50)
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        whole, after_whole = logits_and_state(client, ids, {})
        pieces, state = [], dict[str, np.ndarray]()
        for piece in np.split(ids, [1, 20], axis=1):  # 1, 19 and 30 characters
            logits, state = logits_and_state(client, piece, state)
            pieces.append(logits)
        only_logits = client.infer(name, [triton.InferInput("ids", [3, 50], "INT64").set_data_from_numpy(ids)])
    assert np.concatenate(pieces, axis=1).tobytes() == whole.tobytes()
    assert {letter: array.tobytes() for letter, array in state.items()} == {
        letter: array.tobytes() for letter, array in after_whole.items()
    }
    assert [output["name"] for output in only_logits.get_response()["outputs"]] == ["logits"]


def test_a_state_of_another_size_is_refused_with_the_size_it_must_have(address: str) -> None:
    ids, state = np.zeros((2, 3), "i8"), np.zeros((2, 7), "f4")
    inputs = [
        triton.InferInput("ids", [2, 3], "INT64").set_data_from_numpy(ids),
        triton.InferInput("initial_h", [2, 7], "FP32").set_data_from_numpy(state),
    ]
    with (
        triton.InferenceServerClient(address.removeprefix("http://")) as client,
        pytest.raises(triton.InferenceServerException, match=r"initial_h has shape \[2, 7\].*\[-1, 128\]"),
    ):
        client.infer("ln-gru-charlm", inputs)


def test_a_client_can_encode_text_with_the_manifests_alphabet() -> None:
    manifest = Manifest.load(ARTIFACTS / "ln-lstm-charlm" / "1")
    assert manifest.alphabet is not None
    text = "The quick brown fox: f(x) == {1, 2}\n"
    assert [manifest.alphabet.index(character) for character in text] == encode(text).tolist()


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_that_is_no_character_is_refused_with_the_range(address: str, wrong: int) -> None:
    with (
        triton.InferenceServerClient(address.removeprefix("http://")) as client,
        pytest.raises(triton.InferenceServerException, match=rf"{wrong}.*0"),
    ):
        infer(client, "ln-lstm-charlm", np.array([[1, wrong]]))
