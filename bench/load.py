"""wrk against one address: a closed loop whose answers are all 200 and, where it is asked for, all the same bytes."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from urllib.request import Request, urlopen

import psutil

SCRIPT = """
wrk.method = "POST"
local function content(path)
  local file = io.open(path, "rb")
  local text = file:read("*a")
  file:close()
  return text
end
wrk.body = content({body})
{headers}
"""
COMPARE = """
other = 0
local expected = content({expected})
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function response(status, headers, body)
  if body ~= expected then other = other + 1 end
end
function done()
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get("other") end
  io.write("other answers: " .. sum .. "\\n")
end
"""
IDLE_PERCENT = 10  # of all cores
LONGEST_WAIT_S = 5  # where others use the machine, it never is
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Load:
    """One request, sent again and again."""

    url: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """What came of it; seconds are of a request, as its client sees them."""

    requests_per_second: float
    requests: int
    p50_s: float
    p99_s: float


def answer_to(load: Load) -> tuple[bytes, Message]:
    """Body and headers (by name in any case) of one answer. Raises urllib's HTTPError when it is not 200."""
    with urlopen(Request(load.url, load.body, load.headers)) as answer:  # noqa: S310  # our own address
        return answer.read(), answer.headers


def loaded(load: Load, *, connections: int, seconds: float, expected: bytes | None = None) -> Loaded:
    """Closed loop of one thread, and until the machine is idle again. expected: the body that every answer must have.

    Raises RuntimeError when wrk is not there, an answer is not 2xx, or another than expected.
    """
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed; Debian's package is called wrk")
    with tempfile.TemporaryDirectory() as folder:
        body, answer, script = (Path(folder) / name for name in ("body", "answer", "post.lua"))
        body.write_bytes(load.body)
        headers = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in load.headers.items())
        text = SCRIPT.format(body=json.dumps(str(body)), headers=headers)
        if expected is not None:
            answer.write_bytes(expected)
            text += COMPARE.format(expected=json.dumps(str(answer)))
        script.write_text(text)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "30s", "-s"]
        command += [str(script), load.url]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    _wait_for_idle()
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{load.url}: not every request was answered: {said}")
    if expected is not None and "other answers: 0\n" not in said:
        raise RuntimeError(f"{load.url}: not every answer has the same bytes: {said}")
    return Loaded(
        float(_found(r"Requests/sec:\s+([\d.]+)", said)[1]),
        int(_found(r"(\d+) requests in", said)[1]),
        _seconds(_found(r"50%\s+([\d.]+)(\w+)", said)),
        _seconds(_found(r"99%\s+([\d.]+)(\w+)", said)),
    )


def _wait_for_idle() -> None:
    """A server may still compute what wrk no longer waits for: 256 requests, which the next way would pay for."""
    until = time.perf_counter() + LONGEST_WAIT_S
    while psutil.cpu_percent(interval=0.1) > IDLE_PERCENT and time.perf_counter() < until:
        pass


def _found(pattern: str, said: str) -> re.Match[str]:
    found = re.search(pattern, said)
    if found is None:
        raise RuntimeError(f"wrk did not say {pattern}: {said}")
    return found


def _seconds(found: re.Match[str]) -> float:
    return float(found[1]) * UNITS[found[2]]
