"""Entry point of ``ser-batch`` and ``python -m ser_batch``."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    # Late, since workers import this module and must not load click.
    from ser_batch.cli.main import main as run  # noqa: PLC0415
    from ser_batch.cli.streams import guard_streams  # noqa: PLC0415

    guard_streams()
    sys.exit(run())


def _leave_out_working_directory() -> None:
    """Import nothing from the folder in which ``python -m ser_batch`` was started, which may be one of the archive."""
    here, home = os.getcwd(), os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH109, PTH120
    if not sys.flags.safe_path and os.path.realpath(here) != home and sys.path[:1] in ([here], [""]):
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_working_directory()
    main()
