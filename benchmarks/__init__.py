"""Comparisons with peers and with earlier versions; run one as ``python -m benchmarks.NAME``."""
