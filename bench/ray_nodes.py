"""``python -m bench.ray_nodes``: two Ray nodes as processes of this machine, until standard input ends.

Prints the cluster's address and the process ids of both raylets, the head's first. ``ray start`` starts no second node
with the switch that keeps Ray on 127.0.0.1.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
ON_LOOPBACK = {  # the environment of a cluster on this machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the one switch that keeps Ray's servers on 127.0.0.1, here too
    "PYTHONPATH": os.pathsep.join(map(str, (HERE / "loopback", HERE.parent))),  # and what it does not reach
}
NODE = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}


def main() -> None:
    """Start both, and say so."""
    cluster = import_module("ray.cluster_utils").Cluster()  # whoever wants the environment alone need not have Ray
    nodes = [cluster.add_node(include_dashboard=False, **NODE), cluster.add_node(**NODE)]
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main()
