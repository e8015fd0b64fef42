"""On PYTHONPATH of a Ray cluster that is tried or measured here: its replicas listen on 127.0.0.1 alone.

Each opens a gRPC port that runs what it is sent, on every address of the machine, and Ray has no setting for that.
Python imports this module by itself at every start, so it waits until Ray's own is imported.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PATCHED = "ray._common.tls_utils"


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PATCHED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_patch(module: Any) -> None:
            run(module)
            add_port = module.add_port_to_grpc_server
            module.add_port_to_grpc_server = lambda server, address: add_port(
                server, address.replace("[::]", "127.0.0.1")
            )

        spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
