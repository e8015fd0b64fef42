import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench.peers import wire
from bench.peers.catalogue import PEERS, Peer
from bench.peers.environment import PeerError, install, is_installed, shared_python
from service.protocol import InferenceRequest
from service.request import parse

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
MODEL = Path("models/post-ln-encoder/1")
each_peer = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.key)


@each_peer
def test_environment_of_a_peer_is_pinned_whole_and_exactly(peer: Peer) -> None:
    lines = [line for line in peer.requirements.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert len(lines) == len({line.split("==")[0].lower() for line in lines})
    assert f"{peer.package}=={peer.version}" in lines


@each_peer
def test_peer_runs_the_onnxruntime_that_we_run(peer: Peer) -> None:
    ours = re.findall(r"^onnxruntime==.*$", Path("constraints.txt").read_text(), re.MULTILINE)
    assert ours[0] in peer.requirements.read_text().splitlines()


@each_peer
def test_server_of_a_peer_is_there_and_is_what_its_command_starts(peer: Peer) -> None:
    assert peer.server.is_file()
    module = peer.server.with_suffix("").relative_to(Path(__file__).parents[2]).as_posix().replace("/", ".")
    command = ["/venv/python", "-m", module, "--port", "8000", "--model", str(MODEL)]
    assert peer.command(Path("/venv/python"), 8000, MODEL) == command


@each_peer
def test_peer_listens_on_this_machine_alone(peer: Peer) -> None:
    assert '"127.0.0.1"' in peer.server.read_text()
    for url in (peer.ready_url(8000, MODEL), peer.load(X, 8000, MODEL).url):
        assert url.startswith("http://127.0.0.1:8000/")
        assert "{" not in url


@each_peer
def test_request_carries_the_numbers_exactly(peer: Peer) -> None:
    load = peer.load(X, 8000, MODEL)
    length = load.headers.get(wire.HEADER_LENGTH)
    document = json.loads(load.body[: int(length)] if length else load.body)
    if length:
        sent = np.frombuffer(load.body[int(length) :], "<f4").reshape(document["inputs"][0]["shape"])
    elif "inputs" in document:
        sent = np.array(document["inputs"][0]["data"], np.float32).reshape(document["inputs"][0]["shape"])
    else:
        sent = np.array(document["x"], np.float32)
    assert sent.tobytes() == X.tobytes()
    assert sent.shape == X.shape


@pytest.mark.parametrize("request_of", [wire.oip_request, wire.oip_binary_request])
def test_protocol_requests_are_what_our_own_service_reads(request_of: object) -> None:
    body, headers = request_of(X)  # type: ignore[operator]
    length = headers.get(wire.HEADER_LENGTH)
    request = parse(body, None if length is None else int(length))
    assert isinstance(request, InferenceRequest)
    assert [(each.name, each.datatype, list(each.shape)) for each in request.inputs] == [("x", "FP32", [2, 3, 4])]


def test_answers_are_read_back_exactly() -> None:
    tensor = {"name": "y", "datatype": "FP32", "shape": list(X.shape)}
    flat = json.dumps({"outputs": [tensor | {"data": X.ravel().tolist()}]}).encode()
    header = json.dumps({"outputs": [tensor | {"parameters": {"binary_data_size": X.nbytes}}]}).encode()
    read = [
        wire.plain_answer(json.dumps({"y": X.tolist()}).encode(), {}),
        wire.bare_answer(json.dumps(X.tolist()).encode(), {}),
        wire.oip_answer(flat, {}),
        wire.oip_answer(header + X.tobytes(), {wire.HEADER_LENGTH: str(len(header))}),
    ]
    for y in read:
        np.testing.assert_array_equal(y, X, strict=True)


def test_answer_that_does_not_fill_its_shape_is_refused() -> None:
    header = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 3, 4]}]}).encode()
    with pytest.raises(ValueError, match="reshape"):
        wire.oip_answer(header + X.tobytes()[:-4], {wire.HEADER_LENGTH: str(len(header))})


def test_no_python_that_fits_triton_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python3.11").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3.11").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerError, match="libpython3.11"):
        shared_python()


def test_install_that_fails_is_named_and_not_taken_for_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PeerError, match="no venv here"):
        install(PEERS[0], failing(tmp_path / "python", "no venv here"))
    assert not is_installed(PEERS[0])


def failing(python: Path, reason: str) -> Path:
    python.write_text(f"#!/bin/sh\necho {reason} >&2\nexit 1\n")
    python.chmod(0o700)
    return python
