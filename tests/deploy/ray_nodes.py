"""Two Ray nodes as processes of this machine, on 127.0.0.1 alone, until standard input ends.

Prints the cluster's address and the process ids of both raylets, the head's first. ``ray start`` would do, but for the
switch that keeps Ray on 127.0.0.1, with which that command starts no second node.
"""

import json
import sys

from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}

cluster = Cluster()
nodes = [cluster.add_node(include_dashboard=False, **NODE), cluster.add_node(**NODE)]
raylets = [node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid for node in nodes]
print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
sys.stdin.read()
