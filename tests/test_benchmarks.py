"""Benchmarks are run by hand; what they import of the product must not have moved away meanwhile."""

import importlib
import pkgutil

import pytest

import benchmarks


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__)))
def test_every_benchmark_can_be_started(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "main"):
        monkeypatch.setattr("sys.argv", [name, "--help"])
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert ended.value.code == 0
