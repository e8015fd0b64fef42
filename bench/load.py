"""wrk against one address: requests a second, all of them answered 200."""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = """
wrk.method = "POST"
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()
{headers}
"""


@dataclass(frozen=True)
class Load:
    """One request, sent again and again."""

    url: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def requests_per_second(load: Load, *, connections: int, seconds: int) -> float:
    """Closed loop. Raises RuntimeError when wrk is not there, or an answer is not 2xx."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed; Debian's package is called wrk")
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "post.lua"
        body.write_bytes(load.body)
        headers = "\n".join(f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in load.headers.items())
        script.write_text(SCRIPT.format(body=json.dumps(str(body)), headers=headers))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), load.url]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{load.url}: not every request was answered: {said}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if found is None:
        raise RuntimeError(f"wrk said nothing of requests: {said}")
    return float(found[1])
