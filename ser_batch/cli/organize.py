"""``ser-batch organize``: from a downloaded corpus to data/raw/<emotion>/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ser_batch.cli.options import plugin_option
from ser_batch.cli.streams import as_far_as_read
from ser_batch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ser_batch.corpora.organize import Sorting

__all__ = ["command"]


@click.command("organize")
@click.argument("corpus", metavar="CORPUS")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("dest", metavar="[DEST]", type=click.Path(path_type=Path), default=Path("data/raw"))
@click.option("--link/--copy", default=False, show_default=True, help="Symbolic links to SRC, or copies.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--all-emotions", is_flag=True, help="Take calm, neutral, boredom, distress and labels of your own, too.")
@plugin_option
def command(
    corpus: str, source: Path, dest: Path, link: bool, dry_run: bool, all_emotions: bool, plugins: tuple[str, ...]
) -> None:
    """Sort the clips of CORPUS, as downloaded to SRC, into DEST/<emotion>/ (by default data/raw/<emotion>/).

    CORPUS is ravdess, crema-d, tess, savee, emo-db, emovo, nemo, emogator, labels (a folder with labels.csv or
    labels.tsv), raw (folders by emotion), a corpus of a plugin, or auto: whatever SRC holds. Every file found is
    accounted for. Files get their speaker before the name; speaker, sex and corpus are listed in DEST/speakers.csv.
    Nothing is overwritten, and the same command again does what is left to do.
    """
    from tqdm import tqdm  # noqa: PLC0415 - not for --help

    from ser_batch import hooks  # noqa: PLC0415
    from ser_batch.corpora.emotions import BASIC_EMOTIONS  # noqa: PLC0415
    from ser_batch.corpora.organize import check_destination, place, plan_sorting  # noqa: PLC0415
    from ser_batch.corpora.reading import read_corpus  # noqa: PLC0415
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415

    corpora = hooks.register_corpora(PluginRecipe(files=plugins).build())
    check_destination(source, dest)
    reading = read_corpus(source, corpora, None if corpus == "auto" else corpus)
    sorting = plan_sorting(reading.clips, dest, None if all_emotions else BASIC_EMOTIONS)
    used = {account.corpus for account in reading.accounts}
    licences = (f"{known.title}; licence: {known.licence}" for known in corpora if known.name in used)
    with as_far_as_read():
        for line in (*map(printable, (*licences, *reading.lines())), *_table(sorting)):
            click.echo(line)
    n_new = sum(not item.is_there for item in sorting.placements)
    n_there = len(sorting.placements) - n_new
    if not dry_run:
        with tqdm(total=len(sorting.placements), desc="files", disable=None, leave=False) as bar:
            place(sorting, dest, link=link, progress=lambda done: bar.update(done - bar.n))
    verb = f"would be {'linked' if link else 'copied'}" if dry_run else "linked" if link else "copied"
    click.echo(f"{n_new:,} {verb} to {printable(dest)}, {n_there:,} already there.")


def _table(sorting: Sorting) -> Iterator[str]:
    emotions = sorted({item.clip.emotion for item in sorting.placements})
    yield f"{'emotion':<10} {'clips':>7} {'speakers':>9}"
    for emotion in emotions:
        yield f"{printable(emotion):<10} {sorting.n_clips(emotion):>7,} {len(sorting.speakers(emotion)):>9,}"
    yield f"{'all':<10} {len(sorting.placements):>7,} {len(sorting.speakers()):>9,}"
    if sorting.not_wanted:
        yield f"Left out: {_counts(sorting.not_wanted)} (take them with --all-emotions)."
    if sorting.not_known:
        yield f"Left out, since nobody knows these emotions: {_counts(sorting.not_known)}."
    n_unknown = sum(not item.clip.speaker for item in sorting.placements)
    if n_unknown:
        yield (
            f"WARNING: the speaker of {n_unknown:,} clips is unknown, so no split of them can be by speaker. "
            f"Add file and speaker to speakers.csv."
        )


def _counts(emotions: dict[str, int]) -> str:
    return ", ".join(f"{printable(name)} {count:,}" for name, count in sorted(emotions.items()))
