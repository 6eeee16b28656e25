"""Where the repository is, for tests that read its pages, samples and packages."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
