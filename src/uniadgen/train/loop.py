"""The training loop, one for everything: `model.loss(batch, generator)`, resumable to the bit on CPU."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from uniadgen.config import TrainConfig
from uniadgen.train.log import Metrics, progress_bar

CHECKPOINT = "checkpoint.pt"


def train(
    model: nn.Module,
    batches: Callable[[int], Any],
    config: TrainConfig,
    folder: Path,
    *,
    what: str,
    sample: Callable[[int], None] | None = None,
) -> None:
    """Trains `model` in place for `config.steps` steps, or what is left of them.

    `batches(step)` is a pure function of the step and all noise comes from a generator seeded by it, so a run
    that was killed and restarted gives the bits of one that never stopped. `folder` receives `checkpoint.pt` (written
    aside, then renamed) and `metrics.jsonl`; `sample(step)` draws a sample sheet now and then.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = _optimizers(model, config)
    first = resume(model, optimizers, folder)
    with Metrics(folder / "metrics.jsonl", first) as metrics, progress_bar(what, config.steps, first) as bar:
        for step in range(first, config.steps):
            began = time.perf_counter()
            values = _step(model, optimizers, batches(step), config, step)
            metrics.write(step, {**values, "seconds": round(time.perf_counter() - began, 4)})
            bar.advance(" ".join(f"{name} {value:.3f}" for name, value in values.items()))
            last = step + 1 == config.steps
            if (step + 1) % config.save_every == 0 or last:
                save(model, optimizers, folder, step + 1)
            if sample is not None and ((step + 1) % config.sample_every == 0 or last):
                model.eval()
                sample(step + 1)
    model.eval()


def _step(model: Any, optimizers: Sequence[Optimizer], batch: Any, config: TrainConfig, step: int) -> dict:
    """One optimisation step; the values that are logged."""
    rate = learning_rate(config, step)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = rate
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        losses = model.loss(batch, generator)
    losses.total.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip, error_if_nonfinite=True)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {name: value.item() for name, value in losses._asdict().items()} | {"norm": norm.item(), "rate": rate}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last `decay` of the steps."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    fall = min(1.0, (config.steps - step) / max(config.decay * config.steps, 1))
    return config.learning_rate * min(rise, fall)


def save(model: nn.Module, optimizers: Sequence[Optimizer], folder: Path, step: int) -> None:
    """Writes the checkpoint beside the old one and then renames it: a kill leaves one of the two, whole."""
    partial = folder / f"{CHECKPOINT}.partial"
    state = {"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / CHECKPOINT)
    except RuntimeError as error:  # how torch reports a disk that is full
        raise OSError(f"{partial} could not be written, is the disk full? ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


def resume(model: nn.Module, optimizers: Sequence[Optimizer], folder: Path) -> int:
    """Loads the checkpoint of `folder`, if there is one; the step to go on with."""
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


def _optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """AdamW, in which matrices decay and vectors do not; with `muon`, Muon takes the matrices of the layers.

    Frozen parameters are left out. Muon (Jordan et al. 2024) gets the rate of AdamW, scaled to steps of the same size.
    """
    rest = [p for p in model.parameters() if p.requires_grad]
    optimizers: list[Optimizer] = []
    if config.optimizer == "muon":
        layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and not _is_head(m)]
        matrices = [weight for weight in layers if weight.requires_grad]
        taken = {id(weight) for weight in matrices}
        rest = [p for p in rest if id(p) not in taken]
        options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.append(torch.optim.Muon(matrices, **options))
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [*optimizers, torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)]


def _is_head(linear: nn.Linear) -> bool:
    """A map onto a vocabulary is wider than any layer's."""
    return linear.out_features > 4 * linear.in_features
