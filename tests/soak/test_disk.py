"""What a disk may do to a service: damaged, swapped and unreadable files, and no room for anything."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.asks import REPOSITORY, mixed
from bench.clients import Client, alone, asking
from bench.report import Line
from bench.servers import free_port, running
from tests.waiting import until

GRAPH, WEIGHTS, MANIFEST = "model.onnx", "model.safetensors", "manifest.json"
CLIENTS, ENOUGH = 8, 500
# Root reads everything, unless these two are taken from it.
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
# No file can grow, as on a full disk, and neither can the log.
ON_A_FULL_DISK = ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh", "prlimit", "--fsize=0"]


def rehash(folder: Path) -> None:
    """The manifest's sha256 are those of whatever the files are now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def shorten(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def damage(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def shorten_weights_and_rehash(folder: Path) -> None:
    shorten(folder / WEIGHTS)
    rehash(folder)


def shorten_manifest(folder: Path) -> None:
    shorten(folder / MANIFEST)


def empty_graph(folder: Path) -> None:
    (folder / GRAPH).write_bytes(b"")
    rehash(folder)


def swap_weights(folder: Path) -> None:
    shutil.copy(folder.parents[1] / "bn-cnn-digits" / "1" / WEIGHTS, folder / WEIGHTS)


def swap_artifacts(folder: Path) -> None:
    for name in (GRAPH, WEIGHTS, MANIFEST):
        shutil.copy(folder.parents[1] / "bn-cnn-digits" / "1" / name, folder / name)


def swap_weights_and_rehash(folder: Path) -> None:
    """Another model's, of tensors of the same names and sizes."""
    shutil.copy(folder.parents[1] / "post-ln-charlm" / "1" / WEIGHTS, folder / WEIGHTS)
    rehash(folder)


def forbid(folder: Path) -> None:
    (folder / WEIGHTS).chmod(0)


def forbid_model(folder: Path) -> None:
    folder.parent.chmod(0)


def pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "ln-mlp-digits": (damage, f"{WEIGHTS} has sha256 "),
    "bn-mlp-digits": (forbid_model, "its folder cannot be read: Permission denied"),
    "ln-rnn-charlm": (shorten_weights_and_rehash, f"{GRAPH} cannot be loaded"),
    "ln-lstm-charlm": (shorten_manifest, f"{MANIFEST}"),
    "lstm-charlm": (empty_graph, f"{GRAPH} cannot be loaded"),
    "ln-cnn-digits": (swap_weights, f"{WEIGHTS} has sha256 "),
    "ln-gru-charlm": (swap_artifacts, "its manifest is that of bn-cnn-digits/1"),
    "pre-ln-charlm": (swap_weights_and_rehash, ""),  # whether it loads depends on where the tensors lie in the file
    "admin-charlm": (forbid, f"{WEIGHTS} cannot be read: Permission denied"),
}
PIPED = "bn-cnn-digits"  # last, for others are made of it
WHOLE = "post-ln-charlm"


def command(*before: str) -> tuple[list[str], str]:
    port = free_port()
    return [*before, sys.executable, "-m", "service", "--port", str(port)], f"http://127.0.0.1:{port}"


def test_damaged_swapped_and_unreadable_models_are_refused_and_the_others_serve(
    address: str, tmp_path: Path, record: Callable[..., None]
) -> None:
    asked = [each for each in alone(address, mixed(5)) if each.ask.status == 200]
    repository = tmp_path / "models"
    shutil.copytree(REPOSITORY, repository)
    for name, (spoil, _) in BROKEN.items():
        spoil(repository / name / "1")
    pipe(repository / PIPED / "1")
    reasons = {name: reason for name, (_, reason) in BROKEN.items()} | {PIPED: f"{WEIGHTS} is not a regular file"}
    served = [each for each in asked if not any(f"/{name}/" in each.ask.path for name in reasons)]
    assert {each.ask.path.split("/")[3] for each in served if "/v2/" in each.ask.path} > {WHOLE, "layer_norm"}
    started, url = command(*AS_ANYBODY)
    settings = {"NORMSERVE_MODEL_REPOSITORY": str(repository), "NORMSERVE_DRAIN_SECONDS": "0"}
    with running(started, f"{url}/v2/health/ready", **settings):
        with asking(url, served, CLIENTS) as tally:
            until(lambda: tally.answered > ENOUGH)
        client, wrong = Client(url), list[str]()
        for each in asked:
            name = each.ask.path.split("/")[3]
            if name not in reasons:
                continue
            status, body = client.post(each.ask)
            error = str(json.loads(body)["error"])
            if status != 503 or reasons[name] not in error or str(tmp_path) in error:
                wrong.append(f"{name}: {status} {error}")
        client.close()
    record(
        Line("broken artifacts that were not refused with their reason", len(wrong), f"of {len(reasons)}", 0, False),
        Line("beside them: wrong or missing answers", len(tally.wrong()), f"of {tally.answered}", 0, False),
    )
    assert not wrong, wrong
    assert not tally.wrong()


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o300])
def test_a_repository_that_cannot_be_read_is_told_at_start(tmp_path: Path, mode: int) -> None:
    (tmp_path / "models").mkdir(mode)
    started, url = command(*AS_ANYBODY)
    with (
        pytest.raises(RuntimeError, match="MODEL_REPOSITORY.*: this process may not read it"),
        running(started, f"{url}/v2/health/ready", NORMSERVE_MODEL_REPOSITORY=str(tmp_path / "models")),
    ):
        pass


def test_a_full_disk_changes_no_answer(address: str, tmp_path: Path, record: Callable[..., None]) -> None:
    asked = alone(address, mixed(5))
    tmp_path.chmod(0o500)
    started, url = command(*AS_ANYBODY, *ON_A_FULL_DISK)
    environment = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    with (
        running(started, f"{url}/v2/health/ready", NORMSERVE_DRAIN_SECONDS="0", **environment) as server,
        asking(url, asked, CLIENTS) as tally,
    ):
        until(lambda: tally.answered > ENOUGH)
        assert server.process.is_running()
    record(
        Line(
            "full disk, read-only home: wrong or missing answers", len(tally.wrong()), f"of {tally.answered}", 0, False
        )
    )
    assert not tally.wrong()
    assert list(tmp_path.iterdir()) == []
