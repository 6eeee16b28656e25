"""Entry point of ``ser-batch`` and ``python -m ser_batch``."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    # Late, since workers import this module and must not load click.
    from ser_batch.cli.main import main as run  # noqa: PLC0415
    from ser_batch.cli.streams import guard_streams  # noqa: PLC0415

    guard_streams()
    sys.exit(run())


if __name__ == "__main__":
    main()
