"""deploy/ray on one machine, as many replicas as asked for: ``python -m bench.ray_server --port PORT --replicas N``."""

import argparse
import signal
import sys
import tempfile

import ray
from ray import serve

from deploy.ray.app import deployment

MAX_ONGOING_REQUESTS = 128  # as deploy/ray/serve.yaml has it


def main() -> None:
    """Until a signal; then nothing of Ray remains."""
    parser = argparse.ArgumentParser(prog="python -m bench.ray_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, required=True, help="each on an even share of the cores")
    parser.add_argument("--cores", type=int, required=True)
    options = parser.parse_args()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        ray.init(num_cpus=options.cores, include_dashboard=False, _temp_dir=scratch)
        try:
            serve.start(
                http_options={"host": "127.0.0.1", "port": options.port}, logging_config={"enable_access_log": False}
            )
            sized = deployment().options(
                num_replicas=options.replicas,
                max_ongoing_requests=MAX_ONGOING_REQUESTS,
                ray_actor_options={"num_cpus": max(1, options.cores // options.replicas)},
            )
            serve.run(sized.bind(), name="normserve")
            signal.pause()
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
