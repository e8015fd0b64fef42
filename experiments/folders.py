"""Where an experiment reads and writes: the committed folders, or a place to try things out."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Artifacts and their checkpoints, results (JSON), figures (PNG), and what an interrupted training goes on from."""

    artifacts: Path
    results: Path
    figures: Path
    parts: Path


COMMITTED = Folders(Path("artifacts"), Path("experiments/results"), Path("docs/figures"), Path("build/parts"))
QUICK = Folders(*(Path("build/quick") / name for name in ("artifacts", "results", "figures", "parts")))
