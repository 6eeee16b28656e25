"""Entry point of ``ser-batch`` and ``python -m ser_batch``."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from ser_batch.cli.main import main as run  # noqa: PLC0415 - workers import this module and must not load click

    sys.exit(run())


if __name__ == "__main__":
    main()
