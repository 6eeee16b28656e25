"""Plugins load from packages and files, in one order everywhere, and whoever breaks the contract is named."""

from __future__ import annotations

import os
import pickle
import py_compile
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import pluggy
import pytest

from ser_batch.audio import READER_VERSION
from ser_batch.config import Config
from ser_batch.errors import ConfigError, ExitCode, PluginError
from ser_batch.hooks import (
    clip_finished,
    load_classifier,
    read_clip,
    reader_versions,
    register_commands,
    register_corpora,
    register_extractors,
    report_sections,
    validate_config,
)
from ser_batch.interrupt import Interruptions
from ser_batch.plugins import PluginRecipe, describe_plugins
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.stages.ingredients import Ingredients, differences

GOOD = """
import numpy as np
from ser_batch import FeatureBlock, FeatureSpec, hookimpl

class Extractor:
    spec = FeatureSpec({name!r}, {version}, {scalars!r}{more})

    def extract(self, clip, windows_s):
        n = len(self.spec.scalars)
        return FeatureBlock({name!r}, np.zeros((len(windows_s), n), np.float32), np.zeros(n, np.float32))

@hookimpl
def register_extractors():
    return [Extractor()]
"""

DECLARED: dict[str, object] = {"name": "mine", "version": 1, "scalars": (), "more": ""}

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write one plugin file and return its path. Installed plugins are left out, whatever this machine has."""
    monkeypatch.setenv("SER_BATCH_PLUGINS", "")

    def write_plugin(file: str, code: str = GOOD, **declared: object) -> str:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code.format(**(DECLARED | declared)) if code is GOOD else code)
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
    offered = register_extractors(pickle.loads(pickle.dumps(recipe)).build(), Config())
    assert list(offered) == ["mine"]
    plugin, extractor = offered["mine"]
    assert plugin == "mine.py"
    assert extractor.spec.columns == ("mine__level_db", "mine__rate")


def test_an_installed_package_is_found_described_and_left_out_on_demand(
    install: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = GOOD.format(**DECLARED | {"name": "zebra", "version": 3, "scalars": (("stripes", ""),)})
    install("ser-batch-zebra", "zebra_module", code)
    manager = PluginRecipe(built_in=(), entry_points=("ser-batch-zebra",)).build()
    (info,) = describe_plugins(manager, register_extractors(manager, Config()))
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
    paths = [write(f"{name}.py", failing("clip_finished", "raise ValueError")) for name in ("b", "a", "c")]
    for order in (paths, paths[::-1]):
        failures = clip_finished(build(*order).build(), [ClipOutcome(ClipRef("x", "x", 1, 1), Status.OK)])
        assert [plugin for plugin, _ in failures] == ["a.py", "b.py", "c.py"]


def test_where_the_first_answer_wins_the_order_is_pluggys(write: Write) -> None:
    answer = "@hookimpl{}\ndef read_clip(ref):\n    return iter([{!r}])\n"
    paths = [
        write(f"{name}.py", f"from ser_batch import hookimpl\n{answer.format(mark, name)}")
        for name, mark in (("b", "(tryfirst=True)"), ("a", ""), ("d", ""), ("c", "(trylast=True)"))
    ]
    for n_left, winner in ((4, "b"), (3, "d"), (2, "a"), (1, "c")):
        left = [path for path in paths if Path(path).stem in sorted("badc", key="cadb".index)[:n_left]]
        with pytest.raises(PluginError, match=f"'{winner}.py': read_clip must give Clips, not str"):
            next(read_clip(build(*left).build(), ClipRef("x", "x", 1, 1), 22_050, 60.0, 0.0))


def test_a_file_is_run_as_it_reads_whatever_byte_code_lies_beside_it(write: Write, tmp_path: Path) -> None:
    """Of another state with as many bytes in the same second, or from whoever the file was copied from."""
    code = "from ser_batch import hookimpl\nREADER_VERSION = {}\n@hookimpl\ndef read_clip(ref): return None\n"
    path = Path(write("mine.py", code.format(7)))
    py_compile.compile(str(path), doraise=True)
    written = path.stat()
    path.write_text(code.format(8))
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert reader_versions(build(str(path)).build()) == {"mine.py": 8}
    other = write("other/mine.py", code.format(9))
    assert reader_versions(build(other).build()) == {"mine.py": 9}
    assert not (tmp_path / "other/__pycache__").exists()


def test_the_same_file_twice_is_one_plugin(write: Write) -> None:
    path = write("mine.py")
    assert len(build(path, path).build().list_name_plugin()) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_library", r"'bad\.py' could not be loaded: ModuleNotFoundError: .*no_such_library"),
        ("def f(:", r"'bad\.py' could not be loaded: SyntaxError"),
        ("raise SystemExit(0)", r"'bad\.py' could not be loaded: SystemExit: 0\."),
        (
            "from ser_batch import hookimpl\n@hookimpl(wrapper=True)\ndef register_corpora(): return (yield)",
            r"'bad\.py' implements register_corpora as a wrapper",
        ),
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
        (
            "return [type('Odd', (), {'spec': property(lambda self: 1 / 0)})()]",
            r"'bad\.py': the spec of <.*Odd object.*> cannot be read: ZeroDivisionError",
        ),
    ],
)
def test_a_hook_that_fails_is_named(write: Write, body: str, message: str) -> None:
    code = f"from ser_batch import hookimpl\n@hookimpl\ndef register_extractors(config):\n    {body}\n"
    with pytest.raises(PluginError, match=message):
        register_extractors(build(write("bad.py", code)).build(), Config())


def failing(hook: str, body: str) -> str:
    return f"from ser_batch import hookimpl\n@hookimpl\ndef {hook}():\n    {body}\n"


CALLS: dict[str, Callable[[pluggy.PluginManager], object]] = {
    "register_extractors": lambda manager: register_extractors(manager, Config()),
    "load_classifier": lambda manager: load_classifier(manager, "mine", "cpu"),
    "register_corpora": register_corpora,
    "register_commands": lambda manager: register_commands(manager, click.Group()),
    "validate_config": lambda manager: validate_config(manager, Config()),
    "report_sections": lambda manager: _raised(report_sections(manager, Path())),
    "clip_finished": lambda manager: _raised(clip_finished(manager, [ClipOutcome(ClipRef("", "", 0, 0), Status.OK)])),
}


def _raised(answers: Iterable[tuple[str, object]]) -> None:
    ((_, error),) = answers
    assert isinstance(error, PluginError)
    raise error


@pytest.mark.parametrize("hook", CALLS)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no licence file')", "ValueError: no licence file"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: KeyboardInterrupt"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})", "Odd: Odd"),
    ],
)
def test_whatever_a_hook_raises_names_its_plugin(write: Write, hook: str, body: str, message: str) -> None:
    manager = build(write("bad.py", failing(hook, body))).build()
    with Interruptions(), pytest.raises(PluginError) as caught:
        CALLS[hook](manager)
    assert str(caught.value) == f"Plugin 'bad.py' failed in {hook}: {message}"


def test_an_interrupt_from_outside_is_no_fault_of_a_plugin(write: Write) -> None:
    body = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    manager = build(write("innocent.py", failing("validate_config", body))).build()
    with Interruptions(), pytest.raises(KeyboardInterrupt):
        validate_config(manager, Config())


def test_readers_say_in_their_own_words_why_a_file_is_broken_but_cannot_leave(write: Write) -> None:
    for body, error in (("raise OSError('torn')", OSError), ("raise SystemExit(0)", PluginError)):
        with pytest.raises(error, match=r"torn|'bad\.py' failed in read_clip: SystemExit: 0"):
            read_clip(
                build(write("bad.py", failing("read_clip", body))).build(), ClipRef("", "", 0, 0), 8000, 60.0, 0.0
            )


def test_the_reader_of_a_corpus_is_named_when_it_is_used(write: Write) -> None:
    corpus = "Corpus('zoo', '', '', '', '', read=lambda folder: 1 / 0, looks_like=lambda *_: 1 / 0)"
    code = failing("register_corpora", f"from ser_batch.records import Corpus; return [{corpus}]")
    (found,) = register_corpora(build(write("bad.py", code)).build())
    for use in (lambda: found.read(Path("here")), lambda: found.looks_like(Path("here"), [])):
        with pytest.raises(PluginError, match=r"'bad\.py': corpus 'zoo' failed on here: ZeroDivisionError"):
            use()
    with pytest.raises(PluginError, match=r"'b\.py' offers a corpus named 'zoo', which plugin 'a\.py' already"):
        register_corpora(build(write("a.py", code), write("b.py", code)).build())


def test_errors_with_a_cure_pass_through_a_hook_as_they_are(write: Write) -> None:
    code = (
        "from ser_batch import hookimpl\nfrom ser_batch.errors import ConfigError\n"
        "@hookimpl\ndef validate_config(config):\n    raise ConfigError('set audio.window_s to 3')\n"
    )
    with pytest.raises(ConfigError, match=r"^set audio\.window_s to 3$"):
        validate_config(build(write("strict.py", code)).build(), Config())


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": "a b"}, r"extractor 'a b': the name must be a Python identifier"),
        ({"name": "a__b"}, r"without a double underscore"),
        ({"version": 0}, r"version must be a whole number from 1, not 0"),
        ({"scalars": (("level", "db"), ("level", "db"))}, r"declares column 'mine__level_db' twice"),
        ({"scalars": (("level",),)}, r"pairs \(name, unit\) .* not \('level',\)"),
        ({"scalars": (("le vel", "db"),)}, r"pairs \(name, unit\)"),
        ({"scalars": 7}, r"'bad\.py': the spec of <.*> cannot be read: TypeError: 'int' object is not iterable"),
        ({"more": ", totals=('time',)"}, r"totals must be names of its scalars; 'time' is none"),
        ({"more": ", tensor_shape=(0, 4)"}, r"tensor_shape must be None or whole numbers above 0, not \(0, 4\)"),
        ({"more": ", tensor_shape=4"}, r"tensor_shape must be None or whole numbers above 0, not 4"),
    ],
)
def test_a_spec_that_is_wrong_is_explained(write: Write, declared: dict[str, object], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        register_extractors(build(write("bad.py", **declared)).build(), Config())


def test_names_and_columns_have_one_owner(write: Write) -> None:
    with pytest.raises(PluginError, match=r"'b\.py' offers an extractor named 'mine', which plugin 'a\.py' already"):
        register_extractors(build(write("a.py"), write("b.py")).build(), Config())
    first = write("a.py", name="tone_", scalars=(("level", "db"),))
    second = write("b.py", name="tone", scalars=(("_level", "db"),))
    with pytest.raises(PluginError, match=r"'b\.py' redefines column 'tone___level_db' of plugin 'a\.py'"):
        register_extractors(build(first, second).build(), Config())


def test_a_reader_has_a_version_of_its_own_or_of_its_package_or_of_its_file(
    write: Write, install: Callable[[str, str, str], None]
) -> None:
    code = "from ser_batch import hookimpl\n{}@hookimpl\ndef read_clip(ref): return None\n"
    install("ser-batch-zebra", "zebra_reader", code.format(""))
    files = write("a.py", code.format("READER_VERSION = 7\n")), write("b.py", code.format(""))
    manager = PluginRecipe(files=files, built_in=("ser_batch.audio",), entry_points=("ser-batch-zebra",)).build()
    versions = reader_versions(manager)
    assert list(versions) == ["a.py", "b.py", "ser-batch-zebra", "ser_batch.audio"]
    assert (versions["a.py"], versions["ser-batch-zebra"]) == (7, "2.5")
    assert versions["ser_batch.audio"] == READER_VERSION
    again = reader_versions(build(write("b.py", code.format(""))).build())
    assert again["b.py"] == versions["b.py"]
    assert reader_versions(build(write("b.py", code.format("import os\n"))).build()) != again
    made = []
    for number in (7, 10):
        recipe = build(write("a.py", code.format(f"READER_VERSION = {number}\n")))
        made.append(Ingredients(Config(), recipe, (), (), {}, reader_versions(recipe.build())))
    assert differences(*(ingredients.settings() for ingredients in made)) == ["reader a.py: 7 -> 10"]
    assert made[0].fingerprint() != made[1].fingerprint(), "a run of the old one is not gone on with"
    with pytest.raises(PluginError, match=r"'c\.py': READER_VERSION must be a whole number or text, not \[1\]"):
        reader_versions(build(write("c.py", code.format("READER_VERSION = [1]\n"))).build())
