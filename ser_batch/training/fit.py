"""One training: batches, losses, an average of weights, early stopping, and a state from which it goes on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ser_batch.atomic import open_atomic
from ser_batch.classifier.checkpoint import Checkpoint
from ser_batch.classifier.network import HybridCNN
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.training import metrics
from ser_batch.training.batches import Batch, draw_batch
from ser_batch.training.dataset import NO_TARGET, Dataset
from ser_batch.training.muon import Muon
from ser_batch.training.rows import Rows
from ser_batch.training.starting import copy_weights, shape_for
from ser_batch.training.train_config import FitConfig

__all__ = ["FitPlan", "FitResult", "batch_size_for", "fit", "validation_uar"]

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FitPlan:
    """Which clips are learnt from, and how this training differs from others of the same configuration."""

    #: Indices of clips.
    train: Indices
    #: Indices of clips for early stopping; None keeps the last epoch.
    validation: Indices | None = None
    #: Of weights, batches and masks.
    seed: int = 0
    #: See `DataConfig.balance`.
    balance: float = 0.5
    #: By default the standard network for the labels and the spectrograms of the dataset.
    shape: NetworkConfig | None = None
    #: Stop after this many of the epochs that the learning rate is planned for.
    n_epochs: int | None = None
    #: float32 (n_clips, n_labels): what a teacher says of clips, see `teacher.soft_labels`.
    taught: NDArray[np.float32] | None = None
    #: Model to go on from, with the scale of its inputs.
    start: Checkpoint | None = None
    #: Written after every epoch; where it exists, training goes on from it.
    state_file: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """The best network of one training."""

    network: HybridCNN
    #: From the fused embedding to categories, finer than labels; see `Dataset.category`.
    category_head: nn.Linear
    best_epoch: int
    #: Per epoch: loss, learning rate, validation UAR and negative log-likelihood.
    history: list[dict[str, float]]


class _ReverseGradient(torch.autograd.Function):
    """Identity forwards, minus the gradient backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


class _Trainee(nn.Module):
    """The network with the heads that only training has."""

    def __init__(self, network: HybridCNN, dataset: Dataset, config: FitConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        shape = network.config
        self.category_head = nn.Linear(shape.fusion_units, len(dataset.category_corpus))
        self.corpus_head = nn.Sequential(
            nn.Linear(shape.mel_units + shape.dense_units, 64), nn.ReLU(), nn.Linear(64, len(dataset.corpora))
        )
        self.category_corpus: Tensor
        self.register_buffer("category_corpus", torch.from_numpy(dataset.category_corpus))
        keep = {"hybrid": (1.0, 1.0), "mel": (1.0, 0.0), "dense": (0.0, 1.0)}[config.branches]
        self.kept_columns: Tensor
        self.register_buffer("kept_columns", torch.tensor([keep[0]] * shape.mel_units + [keep[1]] * shape.dense_units))

    def forward(self, mel: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        network, config = self.network, self.config
        if config.branches == "dense":
            # The mel branch costs nearly everything and would be multiplied by 0.
            silent = features.new_zeros(len(features), network.config.mel_units)
            embedding = torch.cat([silent, network.embed_dense(features)], dim=1)
        else:
            embedding = network.embed(mel, features) * self.kept_columns
        if self.training and config.branch_dropout and config.branches == "hybrid":
            embedding = embedding * self._drop_branches(embedding)
        fused = network.fuse(embedding)
        corpora = self.corpus_head(_ReverseGradient.apply(embedding, 1.0)) if config.adversary_weight else fused
        return network.head(network.dropout(fused)), self.category_head(fused), corpora

    def _drop_branches(self, embedding: Tensor) -> Tensor:
        shape = self.network.config
        draw = torch.rand(len(embedding), 1, device=embedding.device)
        rate = self.config.branch_dropout
        # Never both branches of one window.
        mel = (draw >= rate).float().expand(-1, shape.mel_units)
        dense = (draw < 1 - rate).float().expand(-1, shape.dense_units)
        return torch.cat([mel, dense], dim=1)

    def loss(self, outputs: tuple[Tensor, Tensor, Tensor], batch: Batch) -> Tensor:
        """Cross-entropy of labels, of categories within their corpus, and of corpora; mixed as the inputs were."""
        config = self.config
        logits, categories, corpora = (part.float() for part in outputs)
        total = torch.zeros((), device=logits.device)
        for share, target, category, corpus, taught in batch.mixed_targets():
            total = total + share * self._label_loss(logits, target, taught)
            if config.auxiliary_weight:
                # Only categories of the same corpus compete: telling corpora apart is not to be learnt.
                foreign = self.category_corpus[None, :] != corpus[:, None]
                own = functional.cross_entropy(categories.masked_fill(foreign, -1e4), category)
                total = total + share * config.auxiliary_weight * own
            if config.adversary_weight:
                total = total + share * config.adversary_weight * functional.cross_entropy(corpora, corpus)
        return total

    def _label_loss(self, logits: Tensor, target: Tensor, taught: Tensor | None) -> Tensor:
        """Mean cross-entropy of labels and, where a teacher says something, of what it says."""
        config = self.config
        losses = functional.cross_entropy(
            logits, target, ignore_index=NO_TARGET, label_smoothing=config.label_smoothing, reduction="none"
        )
        if taught is not None:
            # One that has no label here is another emotion, whatever the teacher takes it for.
            is_taught = ~taught[:, 0].isnan() & (target != NO_TARGET)
            soft = -(taught.nan_to_num() * functional.log_softmax(logits, dim=1)).sum(dim=1)
            losses = torch.where(is_taught, torch.lerp(losses, soft, config.teacher_share), losses)
        return losses.sum() / len(target)


def _fit_normalisation(network: HybridCNN, rows: Rows, weights: Tensor, generator: torch.Generator) -> None:
    """Set the statistics of inputs from a sample of the training windows; padding and silence are left out."""
    index = torch.multinomial(weights, 4096, replacement=True, generator=generator).to(rows.device)
    norm = network.mel_norm
    sums = torch.zeros(3, norm.band_mean.numel(), dtype=torch.float64, device=rows.device)
    # Of few windows each is drawn often.
    drawn, times = index.unique(return_counts=True)
    for part, count in zip(drawn.split(512), times.split(512), strict=True):
        below, audible = norm.relative(rows.mel(part))
        below, weight = below.double(), (audible.double() * count[:, None])[:, None, :]
        sums[0] += weight.sum()
        sums[1] += (below * weight).sum(dim=(0, 2))
        sums[2] += (below * below * weight).sum(dim=(0, 2))
    mean = sums[1] / sums[0]
    norm.band_mean.copy_(mean)
    norm.band_std.copy_((sums[2] / sums[0] - mean * mean).clamp(min=1.0).sqrt())
    values = rows.dense[index].double()
    mean = torch.nan_to_num(values.nanmean(dim=0))
    std = torch.nan_to_num((values - mean).square().nanmean(dim=0).sqrt())
    network.dense_norm.mean.copy_(mean)
    # A feature that never varies, or is never defined, must not divide by 0.
    network.dense_norm.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))


def validation_uar(network: HybridCNN, rows: Rows, dataset: Dataset, clips: Indices) -> tuple[float, float]:
    """Return UAR and negative log-likelihood over clips, each a mean over the corpora among them."""
    scores = rows.score(network, rows.labelled(clips, dataset))
    probabilities, truth = scores.probabilities(), dataset.target[scores.clips]
    pairs = []
    for number in np.unique(dataset.corpus[scores.clips]):
        inside = dataset.corpus[scores.clips] == number
        pairs.append(
            (
                metrics.uar(truth[inside], probabilities[inside].argmax(axis=1)),
                metrics.negative_log_likelihood(probabilities[inside], truth[inside]),
            )
        )
    uar, nll = np.mean(pairs, axis=0)
    return float(uar), float(nll)


def _learning_rate(step: int, n_steps: int, per_epoch: int, config: FitConfig) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    warmup = max(1, round(min(config.warmup_epochs * per_epoch, n_steps / 4)))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


class _Average:
    """Exponential average of all weights and buffers of a module."""

    def __init__(self, trainee: _Trainee) -> None:
        self.trainee = copy.deepcopy(trainee)
        new, old = trainee.state_dict(), self.trainee.state_dict()
        names = [name for name, value in new.items() if value.is_floating_point()]
        # Tensors that are updated in place: looked up once.
        self._old, self._new = [old[name] for name in names], [new[name] for name in names]

    def update(self, decay: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(self._old, self._new, 1 - decay)


def _autocast(device: torch.device) -> torch.autocast:
    cpu_has_bf16 = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or cpu_has_bf16)


def fit(
    rows: Rows,
    dataset: Dataset,
    plan: FitPlan,
    config: FitConfig,
    on_epoch: Callable[[dict[str, float]], None] = lambda record: None,
) -> FitResult:
    """Train one network.

    Parameters
    ----------
    rows, dataset
        Windows and what is known of their clips.
    plan : FitPlan
    config : FitConfig
    on_epoch : callable
        Told the record of each epoch.
    """
    run = _Training(rows, dataset, plan, config)
    if not run.resume():
        # A state that is damaged may have got in halfway.
        run = _Training(rows, dataset, plan, config)
    for epoch in range(len(run.history), plan.n_epochs or config.epochs):
        if _is_over(run.history, config.patience):
            break
        on_epoch(run.epoch(epoch))
    return FitResult(run.best.network.eval(), run.best.category_head, _best_epoch(run.history), run.history)


def batch_size_for(n_clips: int, config: FitConfig) -> int:
    """Return the windows of a step: no more than there are clips, so that an epoch draws no more than that."""
    return min(config.batch_size, max(n_clips, 2))


class _Training:
    """What lives from the first epoch to the last, and in the state file between two of them."""

    def __init__(self, rows: Rows, dataset: Dataset, plan: FitPlan, config: FitConfig) -> None:
        if plan.taught is not None:
            rows = replace(rows, taught=torch.from_numpy(plan.taught[rows.clip]).to(rows.device))
        self.rows, self.dataset, self.plan, self.config = rows, dataset, plan, config
        self.device = rows.device
        torch.manual_seed(plan.seed)
        n_bands, n_frames = rows.codes.shape[1:]
        shape = plan.shape or NetworkConfig(n_labels=len(dataset.labels), n_bands=n_bands, n_frames=n_frames)
        if plan.start is not None:
            shape = shape_for(plan.start, dataset.labels)
        network = HybridCNN(shape, config.dropout).to(self.device)
        if plan.start is not None:
            copy_weights(network, plan.start, dataset.labels)
        _cut_unused(network, config.branches)
        self.weights = rows.sampling_weights(dataset.weights(plan.balance), plan.train, config.copy_share)
        if plan.start is None:
            _fit_normalisation(network, rows, self.weights, torch.Generator().manual_seed(plan.seed))
        self.trainee = _Trainee(network, dataset, config).to(self.device)
        self.trainee = self.trainee.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = _Average(self.trainee)
        self.best = copy.deepcopy(self.trainee)
        self.optimisers = _optimisers(self.trainee, config)
        self.batch_size = batch_size_for(len(plan.train), config)
        self.per_epoch = max(1, round(len(plan.train) / self.batch_size))
        self.history: list[dict[str, float]] = []

    def epoch(self, epoch: int) -> dict[str, float]:
        """Run one epoch, keep the network if it is the best so far, save the state, return the record."""
        plan = self.plan
        # Seeded per epoch, so that a training that was interrupted draws what it would have drawn.
        torch.manual_seed(plan.seed * 100_003 + epoch)
        generator = np.random.default_rng([plan.seed, epoch])
        drawn = torch.multinomial(self.weights, self.per_epoch * self.batch_size, replacement=True).to(self.device)
        self.trainee.train()
        losses = [
            self._step(epoch * self.per_epoch + number, index, generator)
            for number, index in enumerate(drawn.split(self.batch_size))
        ]
        record = {"epoch": epoch + 1, "loss": float(torch.stack(losses).mean())}
        if plan.validation is not None:
            record["validation_uar"], record["validation_nll"] = validation_uar(
                self.average.trainee.network, self.rows, self.dataset, plan.validation
            )
        self.history.append(record)
        if plan.validation is None or _best_epoch(self.history) == epoch + 1:
            self.best.load_state_dict(self.average.trainee.state_dict())
        if plan.state_file is not None:
            self._save(plan.state_file)
        return record

    def _step(self, step: int, index: Tensor, generator: np.random.Generator) -> Tensor:
        rate = _learning_rate(step, self.config.epochs * self.per_epoch, self.per_epoch, self.config)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        with _autocast(self.device):
            batch = draw_batch(self.rows, index, self.trainee.network, self.config, generator)
            loss = self.trainee.loss(self.trainee(batch.mel, batch.features), batch)
        self.trainee.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        # The average follows closely at first, when weights are far from any good.
        self.average.update(min(self.config.average_decay, (1 + step) / (10 + step)))
        return loss.detach()

    def _parts(self) -> dict[str, Any]:
        return {
            "trainee": self.trainee,
            "average": self.average.trainee,
            "best": self.best,
            **{f"optimiser {number}": optimiser for number, optimiser in enumerate(self.optimisers)},
        }

    def resume(self) -> bool:
        """Go on from the state file, where there is one; return False where it cannot be used."""
        path = self.plan.state_file
        if path is None or not path.is_file():
            return True
        try:
            stored = torch.load(path, map_location=self.device, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(stored[name])
            self.history = [dict(record) for record in stored["history"]]
        except Exception:  # there is no end to the ways in which a file can be damaged
            return False
        return True

    def _save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(path) as file:
            torch.save(
                {**{name: part.state_dict() for name, part in self._parts().items()}, "history": self.history}, file
            )


def _optimisers(trainee: _Trainee, config: FitConfig) -> list[torch.optim.Optimizer]:
    """Return what updates the weights: AdamW alone, or Muon for hidden layers and AdamW for heads and biases."""
    named = list(trainee.named_parameters())
    hidden = [value for name, value in named if value.ndim >= 2 and "head" not in name]
    decayed = [value for name, value in named if value.ndim >= 2 and "head" in name]
    plain = [value for _, value in named if value.ndim < 2]
    if config.optimiser == "adamw":
        hidden, decayed = [], hidden + decayed
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = plain[0].device.type in ("cpu", "cuda")
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)]
    if hidden:
        found.append(Muon(hidden, config.learning_rate, config.weight_decay))
    return found


def _best_epoch(history: list[dict[str, float]]) -> int:
    if not history or "validation_uar" not in history[-1]:
        return len(history)
    return 1 + int(np.argmax([record["validation_uar"] for record in history]))


def _is_over(history: list[dict[str, float]], patience: int) -> bool:
    return len(history) - _best_epoch(history) >= patience


def _cut_unused(network: HybridCNN, branches: str) -> None:
    """Cut a branch that is not to be trained: where nothing comes in, weights of 0 stay 0."""
    columns = {
        "hybrid": slice(0),
        "mel": slice(network.config.mel_units, None),
        "dense": slice(network.config.mel_units),
    }
    with torch.no_grad():
        network.fusion.weight[:, columns[branches]] = 0.0
