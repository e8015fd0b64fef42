"""Where an experiment reads and writes: the committed folders, or a place to try things out."""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Artifacts and their checkpoints, results (JSON), figures (PNG), and what an interrupted training goes on from."""

    artifacts: Path
    results: Path
    figures: Path
    parts: Path

    @classmethod
    def under(cls, base: Path) -> "Folders":
        """All four in one place."""
        return cls(*(base / name for name in ("artifacts", "results", "figures", "parts")))

    def forget(self, experiment: str) -> None:
        """Remove what the experiment would go on from, or take for found already."""
        (self.results / f"{experiment}.json").unlink(missing_ok=True)
        shutil.rmtree(self.parts / experiment, ignore_errors=True)


COMMITTED = Folders(Path("artifacts"), Path("experiments/results"), Path("docs/figures"), Path("build/parts"))
QUICK = Folders.under(Path("build/quick"))
