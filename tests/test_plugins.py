"""Plugins load from packages and files, in one order everywhere, and whoever breaks the contract is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ser_batch.config import Config
from ser_batch.errors import ConfigError, ExitCode, PluginError
from ser_batch.plugins import (
    PluginRecipe,
    attributed_results,
    check_block,
    collect_extractors,
    describe_plugins,
)
from ser_batch.records import FeatureBlock, FeatureSpec

GOOD = """
import numpy as np
from ser_batch import FeatureBlock, FeatureSpec, hookimpl

class Extractor:
    spec = FeatureSpec({name!r}, {version}, {scalars!r})

    def extract(self, clip, windows_s):
        n = len(self.spec.scalars)
        return FeatureBlock({name!r}, np.zeros((len(windows_s), n), np.float32), np.zeros(n, np.float32))

@hookimpl
def register_extractors():
    return [Extractor()]
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write one plugin file and return its path. Installed plugins are left out, whatever this machine has."""
    monkeypatch.setenv("SER_BATCH_PLUGINS", "")

    def write_plugin(file: str, code: str = GOOD, name: str = "mine", version: object = 1, scalars: object = ()) -> str:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code.format(name=name, version=version, scalars=scalars) if code is GOOD else code)
        return str(path)

    return write_plugin


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Install a module as a package with an entry point, the way pip leaves it on disk."""
    monkeypatch.delenv("SER_BATCH_PLUGINS", raising=False)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install_plugin(distribution: str, module: str, code: str) -> None:
        (site / f"{module}.py").write_text(code)
        info = site / f"{distribution.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[ser_batch]\n{distribution} = {module}\n")

    return install_plugin


def build(*files: str) -> PluginRecipe:
    return PluginRecipe(files=files, built_in=())


def test_a_file_is_a_plugin_and_a_recipe_travels(write: Write) -> None:
    recipe = build(write("mine.py", scalars=(("level", "db"), ("rate", ""))))
    offered = collect_extractors(pickle.loads(pickle.dumps(recipe)).build(), Config())
    assert list(offered) == ["mine"]
    plugin, extractor = offered["mine"]
    assert plugin == "mine.py"
    assert extractor.spec.columns == ("mine__level_db", "mine__rate")


def test_an_installed_package_is_found_described_and_left_out_on_demand(
    install: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("ser-batch-zebra", "zebra_module", GOOD.format(name="zebra", version=3, scalars=(("stripes", ""),)))
    (info,) = describe_plugins(PluginRecipe(built_in=(), entry_points=("ser-batch-zebra",)).build(), Config())
    assert (info.name, info.package, info.version) == ("ser-batch-zebra", "ser-batch-zebra", "2.5")
    assert info.hooks == ("register_extractors",)
    assert [(spec.extractor, spec.version, spec.columns) for spec in info.extractors] == [
        ("zebra", 3, ("zebra__stripes",))
    ]
    assert "ser-batch-zebra" in {name for name, _ in PluginRecipe(built_in=()).build().list_name_plugin()}
    monkeypatch.setenv("SER_BATCH_PLUGINS", "")
    assert PluginRecipe(built_in=()).build().list_name_plugin() == []
    monkeypatch.setenv("SER_BATCH_PLUGINS", "ser-batch-zebra")
    assert [name for name, _ in PluginRecipe(built_in=()).build().list_name_plugin()] == ["ser-batch-zebra"]
    monkeypatch.setenv("SER_BATCH_PLUGINS", "ser-batch-okapi")
    with pytest.raises(PluginError, match=r"'ser-batch-okapi' is not installed\. Installed plugins: .*ser-batch-zebra"):
        PluginRecipe(built_in=()).build()


def test_calls_follow_names_not_the_order_of_loading(write: Write) -> None:
    paths = [write(f"{name}.py", name=name) for name in ("b", "a", "c")]
    for order in (paths, paths[::-1]):
        manager = build(*order).build()
        names = [plugin for plugin, _ in attributed_results(manager, "register_extractors", config=Config())]
        assert names == ["a.py", "b.py", "c.py"]


def test_the_same_file_twice_is_one_plugin(write: Write) -> None:
    path = write("mine.py")
    assert len(build(path, path).build().list_name_plugin()) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_library", r"'bad\.py' could not be loaded: ModuleNotFoundError: .*no_such_library"),
        ("def f(:", r"'bad\.py' could not be loaded: SyntaxError"),
        (
            "from ser_batch import hookimpl\n@hookimpl\ndef register_extractor(config): return []",
            r"'bad\.py' implements a hook 'register_extractor' that .* Did you mean 'register_extractors'",
        ),
        (
            "from ser_batch import hookimpl\n@hookimpl\ndef paint_it_black(): return []",
            r"hook 'paint_it_black' that does not exist\. Hooks: register_extractors, read_clip,",
        ),
        (
            "from ser_batch import hookimpl\n@hookimpl\ndef register_extractors(configuration): return []",
            r"(?s)'bad\.py' does not fit a hook: .*configuration",
        ),
    ],
)
def test_a_plugin_that_cannot_load_is_named(write: Write, code: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        build(write("bad.py", code)).build()
    assert caught.value.exit_code == ExitCode.PLUGIN


def test_files_that_are_no_plugins_are_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"nowhere\.py does not exist"):
        build(str(tmp_path / "nowhere.py")).build()
    with pytest.raises(PluginError, match=r"notes\.txt is not a Python file; its name must end in \.py"):
        build(write("notes.txt", "x = 1")).build()
    with pytest.raises(PluginError, match=r"Two plugins are called 'mine\.py'"):
        build(write("one/mine.py"), write("two/mine.py")).build()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "raise ValueError('no licence file')",
            r"'bad\.py' failed in register_extractors: ValueError: no licence file",
        ),
        ("return 7", r"'bad\.py': register_extractors must return a list of extractors, not 7"),
        ("return [7]", r"'bad\.py' registered 7, which is not an extractor: .* `extract\(clip, windows_s\)`"),
    ],
)
def test_a_hook_that_fails_is_named(write: Write, body: str, message: str) -> None:
    code = f"from ser_batch import hookimpl\n@hookimpl\ndef register_extractors(config):\n    {body}\n"
    with pytest.raises(PluginError, match=message):
        collect_extractors(build(write("bad.py", code)).build(), Config())


def test_errors_with_a_cure_pass_through_a_hook_as_they_are(write: Write) -> None:
    code = (
        "from ser_batch import hookimpl\nfrom ser_batch.errors import ConfigError\n"
        "@hookimpl\ndef validate_config(config):\n    raise ConfigError('set audio.window_s to 3')\n"
    )
    with pytest.raises(ConfigError, match=r"^set audio\.window_s to 3$"):
        list(attributed_results(build(write("strict.py", code)).build(), "validate_config", config=Config()))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": "a b"}, r"extractor 'a b': the name must be a Python identifier"),
        ({"name": "a__b"}, r"without a double underscore"),
        ({"version": 0}, r"version must be a whole number from 1, not 0"),
        ({"scalars": (("level", "db"), ("level", "db"))}, r"declares column 'mine__level_db' twice"),
        ({"scalars": (("level",),)}, r"pairs \(name, unit\) .* not \('level',\)"),
        ({"scalars": (("le vel", "db"),)}, r"pairs \(name, unit\)"),
    ],
)
def test_a_spec_that_is_wrong_is_explained(write: Write, declared: dict[str, object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        collect_extractors(build(write("bad.py", **declared)).build(), Config())


def test_names_and_columns_have_one_owner(write: Write) -> None:
    with pytest.raises(PluginError, match=r"'b\.py' offers an extractor named 'mine', which plugin 'a\.py' already"):
        collect_extractors(build(write("a.py"), write("b.py")).build(), Config())
    first = write("a.py", name="tone_", scalars=(("level", "db"),))
    second = write("b.py", name="tone", scalars=(("_level", "db"),))
    with pytest.raises(PluginError, match=r"'b\.py' redefines column 'tone___level_db' of plugin 'a\.py'"):
        collect_extractors(build(first, second).build(), Config())


SPEC = FeatureSpec("tone", 1, (("f0", "hz"), ("level", "db")), tensor_shape=(4, 5))


def block(**changes: object) -> FeatureBlock:
    parts: dict[str, object] = {
        "extractor": "tone",
        "scalars": np.zeros((3, 2), np.float32),
        "clip_scalars": np.zeros(2, np.float32),
        "tensor": np.zeros((3, 4, 5), np.float32),
    }
    return FeatureBlock(**(parts | changes))  # type: ignore[arg-type]


def test_a_block_that_keeps_its_promise_passes() -> None:
    undefined = np.full((3, 2), np.nan, np.float32)
    good = block(scalars=undefined)
    assert check_block("tuner", SPEC, good, 3) is good


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, r"must return a FeatureBlock, not NoneType"),
        (block(extractor="tune"), r"returned a block named 'tune'"),
        (block(scalars=[[1, 2]]), r"scalars must be a numpy array, not list"),
        (block(scalars=np.zeros((3, 2))), r"scalars must be float32 of shape \(3, 2\), not float64 of shape \(3, 2\)"),
        (block(scalars=np.zeros((3, 3), np.float32)), r"scalars must be float32 of shape \(3, 2\), not .*\(3, 3\)"),
        (block(scalars=np.zeros((2, 2), np.float32)), r"of shape \(3, 2\), not float32 of shape \(2, 2\)"),
        (block(clip_scalars=np.zeros((1, 2), np.float32)), r"clip_scalars must be float32 of shape \(2,\)"),
        (block(scalars=np.array([[0, 0], [0, np.inf], [0, 0]], np.float32)), r"infinity in column 'tone__level_db'"),
        (block(clip_scalars=np.array([-np.inf, 0], np.float32)), r"infinity in column 'tone__f0_hz'; use NaN"),
        (block(tensor=None), r"no tensor, but its spec declares one of shape \(4, 5\)"),
        (block(tensor=np.zeros((3, 5, 4), np.float32)), r"tensor must be float32 of shape \(3, 4, 5\)"),
        (block(tensor=np.full((3, 4, 5), np.inf, np.float32)), r"infinity in its tensor"),
    ],
)
def test_a_block_that_breaks_its_promise_is_explained(bad: object, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        check_block("tuner", SPEC, bad, 3)
    assert str(caught.value).startswith("Plugin 'tuner': extractor 'tone'")


def test_a_tensor_that_was_not_declared_is_refused() -> None:
    with pytest.raises(PluginError, match=r"returned a tensor, but its spec declares none"):
        check_block("tuner", FeatureSpec("tone", 1, SPEC.scalars), block(), 3)
