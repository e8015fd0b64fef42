"""``python -m export``: models and checkpoints -> artifacts, each with its certificate."""

import sys
from collections.abc import Sequence

from rich.console import Console

from export.artifact_commands import adopt, check, diff
from export.own_command import export_own

COMMANDS = {"check": check, "diff": diff, "adopt": adopt}


def main(arguments: Sequence[str], console: Console) -> int:
    """Export what is named; 1 when something cannot be exported as promised."""
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:], console)
    if arguments and ":" in arguments[0]:
        return export_own(arguments, console)
    try:
        # Not above: of all that export does the catalogue alone needs our models, and a user's folder may have others.
        from export.catalog_command import export_catalog
    except ModuleNotFoundError as error:
        console.print(
            f"the catalogue's models are not here, but another package of their name ({error}). For a model of your "
            "own: python -m export module:factory --help",
            highlight=False,
        )
        return 2
    return export_catalog(arguments, console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Console()))
