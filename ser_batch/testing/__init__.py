"""Conformance kit for extractors, readers and models: do yours keep the contract on audio that is unkind to them?

In the tests of a plugin::

    from ser_batch.testing import check_extractor

    def test_conforms() -> None:
        report = check_extractor(MyExtractor())
        assert report.ok, str(report)

`check_reader` and `check_classifier` are for what ``read_clip`` and ``load_classifier`` give. The same checks run from
the command line: ``ser-batch plugins --check NAME``.
"""

from ser_batch.testing.extractors import check_extractor
from ser_batch.testing.kit import CheckReport, Finding, check_signals
from ser_batch.testing.models import check_classifier
from ser_batch.testing.readers import check_reader

__all__ = ["CheckReport", "Finding", "check_classifier", "check_extractor", "check_reader", "check_signals"]
