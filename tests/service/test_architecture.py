"""The arrows of the design: models <- export -> artifacts <- service, experiments -> models, export."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"models", "export", "service", "experiments"}

MAY_IMPORT = {
    "models": {"models"},
    "export": {"export", "models", "service"},
    "experiments": {"experiments", "export", "models", "service"},
    "service": {"service"},
}
FORBIDDEN = {
    "models": {"onnx", "onnxruntime", "fastapi", "safetensors"},
    "service": {"torch", "onnx", "onnxscript", "safetensors", "sklearn"},
    "export": {"fastapi", "uvicorn"},
    "experiments": {"fastapi", "uvicorn", "onnxruntime"},
}
# Lower layers first; a module imports only what stands before it.
SERVICE_LAYERS = [
    {
        "version",
        "protocol",
        "errors",
        "settings",
        "cores",
        "whole_response",
        "tallies",
        "record",
        "queued_stream",
        "last_connections",
        "healthcheck",
        "lifecycle",
        "cuda",
        "request_id",
        "page",
        "turns",
        "staged_transport",
        "starts",
        "pace",
    },
    {"access_log", "call", "watched"},
    {
        "memory",
        "counters",
        "manifest",
        "off_the_loop",
        "json_numbers",
        "json_document",
        "api_key",
        "cors",
        "log",
        "home",
    },
    {
        "artifact",
        "certificate",
        "request",
        "metrics",
        "bodies",
        "openapi",
        "model_config",
        "handlers",
        "http_protocol",
        "request_queue",
    },
    {"sizes"},
    {"body", "codec", "runtime", "batcher", "statistics", "ops", "provider"},
    {"op_runtime", "served", "op_bodies"},
    {"served_model", "served_op", "lease"},
    {"loader", "repository"},
    {"model_control", "check"},
    {"routes", "op_routes", "infer"},
    {"traces"},
    {"app"},
    {"server"},
    {"workers"},
    {"__main__"},
]


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("folder", sorted(OURS))
def test_imports_follow_the_arrows(folder: str) -> None:
    for file in files(folder):
        heads = {module.split(".")[0] for module in imported_modules(file)}
        assert heads & OURS <= MAY_IMPORT[folder], file
        assert not heads & FORBIDDEN[folder], file


@pytest.mark.parametrize("folder", ["export", "experiments"])
def test_of_the_service_only_the_contract_is_imported(folder: str) -> None:
    allowed = {"service", "service.manifest", "service.certificate"}
    for file in files(folder):
        modules = {module for module in imported_modules(file) if module.split(".")[0] == "service"}
        assert {".".join(module.split(".")[:2]) for module in modules} <= allowed, file


def test_inside_the_service_imports_go_down() -> None:
    level = {module: height for height, layer in enumerate(SERVICE_LAYERS) for module in layer}
    for file in files("service"):
        if file.stem == "__init__":
            assert set(imported_modules(file)) == {"os"}  # export imports single modules: it must load none
            continue
        for module in imported_modules(file):
            parts = module.split(".")
            if parts[0] == "service" and len(parts) > 1 and parts[1] != file.stem:
                assert level[parts[1]] < level[file.stem], (file, module)


def test_service_runs_without_torch_and_onnx() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; import service.__main__, service.runtime"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# What turns bytes into objects or code of their choosing; numpy's load does when it is asked to, and torch's.
UNPICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "yaml"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}


def test_the_service_unpickles_nothing_and_runs_no_text() -> None:
    for file in files("service"):
        assert not {module.split(".")[0] for module in imported_modules(file)} & UNPICKLES, file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in RUNS_TEXT, (file, node.lineno)
            if isinstance(node, ast.Attribute):
                is_numpy = isinstance(node.value, ast.Name) and node.value.id in {"np", "numpy"}
                assert not (is_numpy and node.attr in {"load", "fromfile", "memmap"}), (file, node.lineno)
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", (file, node.value.lineno)
