"""The compiler settings that all kernels share, and a cache for them that cannot fail a clip."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba.core import caching
from numba.core.runtime.nrt import rtsys

from ser_batch.dsp.kernel_cache import kernel_folder, unsaved

__all__ = ["finite_inner_kernel", "finite_kernel", "inner_kernel", "kernel", "ordered_kernel"]

F = TypeVar("F", bound=Callable[..., Any])

#: Those licences of fast-math that keep NaN a NaN.
_FASTMATH: Final = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: F) -> F:
    """Compile `function` when it is first called with some types, or load what an earlier process compiled."""
    return _compiled(function, _FASTMATH)


def finite_kernel(function: F) -> F:
    """As `kernel`, for one that sees finite values only: its minima and maxima are then vectorised, too."""
    return _compiled(function, {*_FASTMATH, "nnan", "ninf"})


def ordered_kernel(function: F) -> F:
    """As `kernel`, for one that computes in the order that is written: what waits for what was thought about."""
    return _compiled(function, {"contract"})


def inner_kernel(function: F) -> F:
    """As `kernel`, for one that is called by other kernels alone: compiled without what Python would call it by."""
    return _compiled(function, _FASTMATH, no_cpython_wrapper=True)


def finite_inner_kernel(function: F) -> F:
    """As `finite_kernel`, for one that is called by other kernels alone."""
    return _compiled(function, {*_FASTMATH, "nnan", "ninf"}, no_cpython_wrapper=True)


def _compiled(function: F, fastmath: set[str], **options: bool) -> F:
    # NUMBA_DISABLE_JIT would leave Python to do this, which lacks the vectors; numba cannot do without for some only.
    config: Any = numba.config
    config.DISABLE_JIT = 0
    njit: Any = numba.njit  # its types lack some of its options
    dispatcher: Any = njit(nogil=True, error_model="numpy", fastmath=fastmath, no_cfunc_wrapper=True, **options)(
        function
    )
    dispatcher._cache = _KernelCache(function)  # as numba's `cache=True` does, which raises where it cannot write
    return cast(F, dispatcher)


class _Locator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """Keeps kernels where `kernel_folder` says."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        # Where nothing can be written, a cache that came with an image may still be read.
        return str(kernel_folder() or Path(self._py_file).with_name("__pycache__"))


class _Results(caching.CompileResultCacheImpl):
    def __init__(self, function: Callable[..., Any]) -> None:
        self._locator_classes = [_Locator]
        super().__init__(function)


class _KernelCache(caching.FunctionCache):
    """A cache that is damaged, full or gone costs time, never a result."""

    _impl_class = _Results

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            # numba would load all that it compiles with, for half a second; what is compiled needs this only.
            rtsys.initialize(target)
            with _locked(self.cache_path, fcntl.LOCK_SH):
                return self._load_overload(signature, target)
        except Exception:  # what unpickling a damaged file raises, is anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            with _locked(self.cache_path, fcntl.LOCK_EX):
                super().save_overload(signature, result)
        except OSError:
            unsaved.add(self._name)


@contextmanager
def _locked(folder: str, how: int) -> Iterator[None]:
    """Keep processes apart that save kernels at the same time: numba would give two of them one name."""
    with ExitStack() as stack:
        with suppress(OSError):  # nothing can be saved there, or this disk has no locks
            file = stack.enter_context(Path(folder, "lock").open("ab"))
            fcntl.flock(file, how)
        yield
