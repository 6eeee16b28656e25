"""Makes the weights of this package: the lower layers of Whisper's encoder, and a linear layer learnt on top of them.

    python make_weights.py ENCODER CORPORA --cache FOLDER --json scores.json

ENCODER is ``model.safetensors`` of openai/whisper-tiny.en in the Hugging Face layout, or ``model.bin`` of the same in
that of CTranslate2. CORPORA is a folder that holds RAVDESS, nEMO, EmoGator, EMO-DB, EMOVO, SAVEE and TESS, each in a
folder of its own. Scores are on speakers (folds as in docs/accuracy.md), then on corpora, that the linear layer never
heard; the temperature is that of the corpora never heard. The encoder itself is never changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from ser_batch_whisper import MODELS
from ser_batch_whisper.classifier import WEIGHTS
from ser_batch_whisper.encoder import N_LAYERS, N_STEPS, WIDTH, weight_shapes
from sklearn.linear_model import LogisticRegression

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.corpora.reading import read_corpus
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Corpus
from ser_batch.stages.progress import Progress
from ser_batch.training import metrics
from ser_batch.training.dataset import Dataset, content_hashes, cross_validation_folds, speaker_key
from ser_batch.training.evaluate import HASH_DIGITS, Predictions, score_table
from ser_batch.training.teacher import windows_heard
from ser_batch.training.train_config import AugmentConfig, DataConfig

LABELS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
#: Corpora that are strangers to each other in language, room and speakers: each left out once.
STRANGERS = ("emo-db", "emovo", "nemo", "ravdess", "savee")
#: Two women and one phrase: little weight.
TESS_SHARE = 0.25
#: Penalty on the squared weights of the linear layer, chosen on corpora left out.
PENALTY = 0.03

Arrays = dict[str, NDArray[Any]]


def read_encoder(path: Path) -> Arrays:
    """Return the tensors of the lower layers under the names of `weight_shapes`, float16."""
    found = _from_hugging_face(load_file(path)) if path.suffix == ".safetensors" else _from_ctranslate2(path)
    found["positions"] = found["positions"][:N_STEPS]
    for name, shape in weight_shapes().items():
        assert found[name].shape == shape, f"{name} has shape {found[name].shape}, not {shape}"
    return {name: np.ascontiguousarray(found[name], np.float16) for name in weight_shapes()}


def _from_hugging_face(tensors: Arrays) -> Arrays:
    encoder = {name.removeprefix("model."): value for name, value in tensors.items()}
    found = {f"{name}.{kind}": encoder[f"encoder.{name}.{kind}"] for name in ("conv1", "conv2") for kind in _KINDS}
    found["positions"] = encoder["encoder.embed_positions.weight"]
    for layer in range(N_LAYERS):
        at, to = f"encoder.layers.{layer}", f"layers.{layer}"
        names = {"attention_norm": "self_attn_layer_norm", "attention_out": "self_attn.out_proj"}
        names |= {"mlp_norm": "final_layer_norm", "mlp_in": "fc1", "mlp_out": "fc2"}
        found |= {f"{to}.{new}.{kind}": encoder[f"{at}.{old}.{kind}"] for new, old in names.items() for kind in _KINDS}
        parts = [encoder[f"{at}.self_attn.{name}_proj.weight"] for name in "qkv"]
        found[f"{to}.attention_in.weight"] = np.concatenate(parts)
        # Whisper's keys have no bias.
        query, value = (encoder[f"{at}.self_attn.{name}_proj.bias"] for name in "qv")
        found[f"{to}.attention_in.bias"] = np.concatenate([query, np.zeros_like(query), value])
    return found


def _from_ctranslate2(path: Path) -> Arrays:
    raw = _read_ctranslate2(path)
    found = {f"{name}.{kind}": raw[f"encoder/{name}/{kind}"] for name in ("conv1", "conv2") for kind in _KINDS}
    found["positions"] = raw["encoder/position_encodings/encodings"]
    for layer in range(N_LAYERS):
        at, to = f"encoder/layer_{layer}", f"layers.{layer}"
        names = {"attention_in": "self_attention/linear_0", "attention_out": "self_attention/linear_1"}
        names |= {"mlp_in": "ffn/linear_0", "mlp_out": "ffn/linear_1"}
        found |= {f"{to}.{new}.{kind}": raw[f"{at}/{old}/{kind}"] for new, old in names.items() for kind in _KINDS}
        for new, old in (("attention_norm", "self_attention"), ("mlp_norm", "ffn")):
            found[f"{to}.{new}.weight"] = raw[f"{at}/{old}/layer_norm/gamma"]
            found[f"{to}.{new}.bias"] = raw[f"{at}/{old}/layer_norm/beta"]
    return found


_KINDS = ("weight", "bias")


def _read_ctranslate2(path: Path) -> Arrays:
    """Read CTranslate2's binary format, version 6: names, shapes, types and bytes, one after the other."""
    types = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    found = {}
    with path.open("rb") as file:

        def number(form: str) -> int:
            return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

        def text() -> str:
            return file.read(number("<H"))[:-1].decode()

        version, kind = number("<I"), text()
        assert (version, kind) == (6, "WhisperSpec"), f"{path} is {kind}, version {version}"
        number("<I")
        for _ in range(number("<I")):
            name, rank = text(), number("<B")
            shape = [number("<I") for _ in range(rank)]
            dtype = types[number("<B")]
            found[name] = np.frombuffer(file.read(number("<I")), dtype).reshape(shape)
    return found


def hold(encoder: Arrays) -> None:
    """Put the encoder into the package, with a layer that says nothing, unless it is there."""
    if WEIGHTS.exists():
        known = load_file(WEIGHTS)
        if all(name in known and np.array_equal(known[name], array) for name, array in encoder.items()):
            return
    n_heard = 2 * WIDTH * N_LAYERS
    blank = {"summary.mean": np.zeros(n_heard, np.float32), "summary.std": np.ones(n_heard, np.float32)}
    blank |= {"head.weight": np.zeros((len(LABELS), n_heard), np.float32)}
    blank |= {"head.bias": np.zeros(len(LABELS), np.float32)}
    meta = {"name": "ser7-large", "labels": LABELS, "temperatures": dict.fromkeys(MODELS, 1.0), "training": {}}
    save_file(encoder | blank, WEIGHTS, metadata={"ser_batch": json.dumps(meta)})


def summaries(rows: Any, copy: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Return what is heard in windows (n, 1536), the clip of each and its audible seconds."""
    inside = rows.copy == copy
    values, seconds = rows.arrays["embedding"][inside], rows.arrays["seconds"][inside]
    return values.astype(np.float32), rows.clip[inside], seconds.astype(np.float64)


CHANGES = AugmentConfig(copies=1, speed=0.12, pitch_probability=0.25, pitch_st=1.5, stretch_probability=0.25)


class Study:
    """Learns the linear layer from some clips and answers for others."""

    def __init__(self, dataset: Dataset, plain: Any, changed: Any) -> None:
        self.dataset, self._plain = dataset, plain
        self._values = np.concatenate([plain[0], changed[0]])
        self._clip = np.concatenate([plain[1], changed[1]])
        self._share = np.concatenate([_shares(*part[1:], len(dataset)) for part in (plain, changed)])

    def learn(self, clips: NDArray[np.int64]) -> tuple[Arrays, Callable[[NDArray[np.float32]], NDArray[np.float64]]]:
        """Return the tensors of the layer, and the function from summaries to logits."""
        corpora = np.array(self.dataset.corpora)[self.dataset.corpus]
        wanted = clips[self.dataset.target[clips] >= 0]
        counts = Counter(zip(corpora[wanted], self.dataset.target[wanted], strict=True))
        weight = np.zeros(len(self.dataset))
        for clip in wanted:
            weight[clip] = counts[corpora[clip], self.dataset.target[clip]] ** -0.5
            weight[clip] *= TESS_SHARE if corpora[clip] == "tess" else 1.0
        of_row = weight[self._clip] * self._share
        inside = of_row > 0
        values, of_row = self._values[inside], of_row[inside] / of_row[inside].sum()
        mean, std = values.mean(axis=0), values.std(axis=0) + 1e-3
        model = LogisticRegression(C=1 / PENALTY, max_iter=80, tol=1e-3)
        model.fit((values - mean) / std, self.dataset.target[self._clip[inside]], sample_weight=of_row)
        layer = {"summary.mean": mean, "summary.std": std, "head.weight": model.coef_, "head.bias": model.intercept_}
        layer = {name: np.ascontiguousarray(value, np.float32) for name, value in layer.items()}
        return layer, lambda rows: (rows - mean) / std @ model.coef_.T + model.intercept_

    def answers(self, learnt: NDArray[np.int64], asked: NDArray[np.int64]) -> Any:
        """Return (logits, clip, share) of the windows of `asked`."""
        _, logits = self.learn(learnt)
        values, clip, seconds = self._plain
        inside = np.isin(clip, asked)
        return logits(values[inside]), clip[inside], _shares(clip, seconds, len(self.dataset))[inside]


def _shares(clip: NDArray[np.int64], seconds: NDArray[np.float64], n_clips: int) -> NDArray[np.float64]:
    return np.asarray(seconds / np.bincount(clip, seconds, minlength=n_clips)[clip])


def pooled(answers: Any, temperature: float, n_clips: int) -> NDArray[np.float64]:
    """Return probabilities of clips (n_clips, n_labels), of zeros where there is no window."""
    logits, clip, share = answers
    total = np.zeros((n_clips, logits.shape[1]))
    np.add.at(total, clip, share[:, None] * metrics.softmax(logits, temperature))
    return total


def scores_of(study: Study, folds: list[Any], name: str) -> dict[str, Any]:
    """Return the score table of a model over the answers of all folds, each calibrated on the others.

    Its temperature is the one that suits all.
    """
    dataset, labels = study.dataset, MODELS[name] or LABELS
    kept = [dataset.labels.index(label) for label in labels]
    place = np.full(len(dataset.labels) + 1, -1)  # the last one is for clips without a target
    place[kept] = np.arange(len(kept))
    truth = place[dataset.target]
    parts = []
    for logits, clip, share in folds:
        inside = truth[clip] >= 0
        parts.append((logits[inside][:, kept], clip[inside], share[inside]))
    temperatures = [_temperature([part for part in parts if part is not own] or parts, truth) for own in parts]
    known = [pooled(part, t, len(dataset)) for part, t in zip(parts, temperatures, strict=True)]
    clips = [np.unique(part[1]) for part in parts]
    together = np.concatenate(clips)
    table = score_table(
        Predictions(
            labels=tuple(labels),
            truth=truth[together],
            probabilities=np.concatenate([table[index] for table, index in zip(known, clips, strict=True)]),
            speaker=dataset.speaker[together],
            corpus=np.array(dataset.corpora)[dataset.corpus[together]],
            sex=np.array([dataset.clips[index].sex for index in together]),
        )
    )
    return {"temperature": _temperature(parts, truth), **table}


def _temperature(parts: list[Any], truth: NDArray[np.int64]) -> float:
    logits, clip, share = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    names, position = np.unique(clip, return_inverse=True)

    def pool(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros((len(names), probabilities.shape[1]))
        np.add.at(total, position, share[:, None] * probabilities)
        return total

    return metrics.fit_temperature(logits, truth[names], pool=pool)


def main() -> None:
    """Compute, score, learn, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=WEIGHTS)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    corpora: list[Corpus] = hooks.register_corpora(PluginRecipe(entry_points=()).build())
    encoder = read_encoder(options.encoder)
    clips = list(read_corpus(options.corpora, corpora).clips)
    hashes = content_hashes([clip.path for clip in clips])
    dataset = Dataset.build(clips, DataConfig(labels=LABELS, merge=("calm=neutral",)))
    hold(encoder)
    paths = [clip.path for clip in clips]
    how: Any = {"cache_dir": options.cache, "recipe": PluginRecipe(), "changes": CHANGES, "progress": Progress()}
    rows = windows_heard("ser7-large", paths, hashes, **how)
    study = Study(dataset, summaries(rows, 0), summaries(rows, 1))
    everything = np.arange(len(dataset))
    folds = {
        "speakers": [fold[1:] for fold in cross_validation_folds(dataset, corpora, "given")],
        "strangers": [
            (everything[dataset.corpus != number], everything[dataset.corpus == number])
            for number, name in enumerate(dataset.corpora)
            if name in STRANGERS
        ],
    }
    answers = {protocol: [study.answers(*sides) for sides in parts] for protocol, parts in folds.items()}
    report = {}
    for name in MODELS:
        report[name] = {protocol: scores_of(study, parts, name) for protocol, parts in answers.items()}
        for protocol, table in report[name].items():
            rows = {key: round(block["uar"], 3) for key, block in table["corpora"].items()}
            print(f"{name}, {protocol} never heard: UAR {rows}, temperature {table['temperature']:.2f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    layer, _ = study.learn(everything)
    sources = [corpus for corpus in corpora if corpus.name in dataset.corpora]
    meta = {
        "name": "ser7-large",
        "labels": LABELS,
        "temperatures": {name: tables["strangers"]["temperature"] for name, tables in report.items()},
        "pooling": {"rule": "weighted_mean", "weight_column": "audible seconds of each window"},
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "training": {
            "corpora": [
                {"name": item.name, "title": item.title, "licence": item.licence, "url": item.url} for item in sources
            ],
            "licences": sorted({item.licence for item in sources}),
            "encoder": "Whisper tiny.en, MIT, lower two layers, not changed",
            "seeds": [0],
            "n_clips": len(dataset),
            "n_speakers": len(set(dataset.speaker)),
            "tool_version": __version__,
            "speakers": sorted({speaker_key(clip.speaker) for clip in clips if clip.speaker}),
            "audio": "".join(sorted({content[:HASH_DIGITS] for content in hashes})),
        },
        "scores": {name: _summary(tables["speakers"]) for name, tables in report.items()},
    }
    save_file(encoder | layer, options.output, metadata={"ser_batch": json.dumps(meta, sort_keys=True)})
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


def _summary(table: dict[str, Any]) -> dict[str, Any]:
    return {
        "side": "cross_validation",
        "uar": table["overall"]["uar"],
        "uar_interval": table["overall"]["uar_interval"],
        "corpora": {name: block["uar"] for name, block in table["corpora"].items()},
    }


if __name__ == "__main__":
    main()
