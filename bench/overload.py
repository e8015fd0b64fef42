"""wrk as a load that does not wait for answers to go on, and what each of its requests was answered.

wrk is a closed loop: a connection sends its next request when it has the answer to the last. With many more connections
than the server queues requests, and a pause (wrk's ``delay``) before each request, nearly all connections are pausing:
when they send does not depend on the server's answers, and they send (connections - waiting) / pause requests a second.
A pause of 0 to twice its mean makes these times irregular, as in an open loop.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load import Load, answer_to

STAMP = b"0123456789abcdef"  # the request's id, in whose place each request has the time it was made at, in us
SCRIPT = """
local ffi = require("ffi")
ffi.cdef[[ struct timeval { long s; long us; }; int gettimeofday(struct timeval *now, void *zone); ]]
local timeval = ffi.new("struct timeval")
local function now()
  ffi.C.gettimeofday(timeval, nil)
  return tonumber(timeval.s) * 1000000 + tonumber(timeval.us)
end
local function content(path)
  local file = io.open(path, "rb")
  local text = file:read("*a")
  file:close()
  return text
end
wrk.method = "POST"
{headers}
local body = content({body})
local first, last = body:find({stamp}, 1, true)
local before, after = body:sub(1, first - 1), body:sub(last + 1)
local expected = content({expected})
local answers = io.open({answers}, "wb")
answers:setvbuf("no")
function request()
  return wrk.format(nil, nil, nil, before .. string.format("%016.0f", now()) .. after)
end
function response(status, headers, body)
  local id = status == 200 and body:match('"id":"(%d+)"')
  local took = id and now() - tonumber(id) or 0
  local same = not id or body:gsub(id, {stamp}, 1) == expected
  answers:write(string.format("%d %.0f %d\\n", status, took, same and 1 or 0))
end
"""
DELAY = """
function delay() return math.random(0, {most}) end
"""


@dataclass(frozen=True)
class Overload:
    """What came of it. p99_s: of the requests that were answered 200, from before they were sent."""

    statuses: Counter[int]
    good_per_second: float
    per_second: float
    p99_s: float
    different: int


def overloaded(load: Load, *, connections: int, seconds: float, pause_s: float = 0.0) -> Overload:
    """load: its body's JSON has STAMP as its id. pause_s: the mean before each request of a connection.

    Raises RuntimeError when wrk is not there, or a connection was refused, reset or not answered.
    """
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed; Debian's package is called wrk")
    with tempfile.TemporaryDirectory() as folder:
        body, expected, answers, script = (Path(folder) / name for name in ("body", "expected", "answers", "post.lua"))
        body.write_bytes(load.body)
        expected.write_bytes(answer_to(load)[0])
        named = {"body": body, "expected": expected, "answers": answers}
        headers = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in load.headers.items())
        text = SCRIPT
        for name, file in named.items():
            text = text.replace(f"{{{name}}}", json.dumps(str(file)))
        text = text.replace("{headers}", headers).replace("{stamp}", json.dumps(STAMP.decode()))
        if pause_s:
            text += DELAY.replace("{most}", f"{2000 * pause_s:.0f}")
        script.write_text(text)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(script), load.url]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
        found = np.loadtxt(answers, dtype=np.int64, ndmin=2).reshape(-1, 3)
    if errors := re.search(r"Socket errors: .*", said):
        raise RuntimeError(f"{load.url}: not every request was answered: {errors[0]}")
    status, took_us, same = found.T
    good = status == 200
    return Overload(
        statuses=Counter(status.tolist()),
        good_per_second=float(good.sum() / seconds),
        per_second=len(found) / seconds,
        p99_s=float(np.percentile(took_us[good], 99)) / 1e6 if good.any() else float("inf"),
        different=int((same == 0).sum()),
    )
