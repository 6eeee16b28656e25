"""A model on a GPU with the same one on the CPU behind it: a GPU that fails in mid-run costs speed, not files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.contracts_models import CheckedClassifier
from ser_batch.errors import SerBatchError
from ser_batch.records import FeatureBlock
from ser_batch.text import message_of

__all__ = ["Standby"]

#: After so many failures in a row a GPU is not asked again: it is full for good, or broken.
_FAILURES = 3

_Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]


class Standby:
    """A `Listener` that answers by the GPU, and where that fails, by the CPU.

    Whether memory ran out, another program's kernel broke the driver or the batch itself is to blame, the GPU does not
    tell. What the CPU can compute was not to blame; what it cannot, fails as it would have on the CPU.

    Parameters
    ----------
    classifier : CheckedClassifier
        On the GPU.
    load : callable
        Returns the same model on the CPU; called when it is needed first.
    say : callable
        Is told the first failure, and that the GPU is given up.
    """

    def __init__(
        self, classifier: CheckedClassifier, load: Callable[[], CheckedClassifier], say: Callable[[str], None]
    ) -> None:
        self._gpu, self._load, self._say = classifier, load, say
        self._cpu: CheckedClassifier | None = None
        self._n_failures = 0

    def __getattr__(self, name: str) -> Any:
        # All that does not compute on the device: names, labels, the last layer, pooling.
        return getattr(self._gpu, name)

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> _Arrays:
        """Return window probabilities (n_windows, n_labels) and pooling weights (n_windows,); see `Classifier`."""
        return self._answer(lambda classifier: classifier.predict(blocks))

    def listen(self, blocks: Mapping[str, FeatureBlock]) -> _Arrays:
        """Return embeddings (n_windows, n_embedding) and pooling weights (n_windows,); see `Listener`."""
        return self._answer(lambda classifier: classifier.listen(blocks))

    def _answer(self, ask: Callable[[CheckedClassifier], _Arrays]) -> _Arrays:
        if self._n_failures >= _FAILURES:
            return ask(self._standby())
        try:
            answer = ask(self._gpu)
        except Exception as error:
            try:
                standby = self._standby()
            except SerBatchError:
                raise error from None  # there is none for the CPU
            answer = ask(standby)
            self._count(message_of(error).splitlines()[0])
        else:
            self._n_failures = 0
        return answer

    def _standby(self) -> CheckedClassifier:
        if self._cpu is None:
            self._cpu = self._load()
        return self._cpu

    def _count(self, reason: str) -> None:
        self._n_failures += 1
        if self._n_failures == 1:
            self._say(f"{self._gpu.device} failed ({reason}); the CPU computed these windows.")
        elif self._n_failures == _FAILURES:
            self._say(f"{self._gpu.device} failed {_FAILURES} times in a row; the CPU computes the rest.")
