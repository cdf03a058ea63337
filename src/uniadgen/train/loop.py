"""The training loop, one for everything with `.loss(batch)`: resumable to the bit, on one process or many."""

import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from uniadgen.config import Recipe, TrainConfig
from uniadgen.model.preference import Block
from uniadgen.train.log import Metrics, progress_bar
from uniadgen.train.muon import Muon
from uniadgen.train.prefetch import made_ahead, num_workers

LAYERS = (LlamaDecoderLayer, Dinov2Layer, Block)  # sharded each on its own
CHECKPOINT = re.compile(r"checkpoint-(\d{6,})")  # a folder per step, named when it is whole


class Trainer:
    """A model, its optimizers and the processes that train it; `train` is its loop.

    With several processes (torchrun, accelerate launch) parameters, gradients and optimizer states are sharded
    (FSDP2). Only what is trained is written to a checkpoint, in the format of
    torch.distributed.checkpoint, so a run may go on with another number of processes.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.accelerator = _accelerator(config, folder)
        self.world = self.accelerator.num_processes
        if self.world > 1 and config.optimizer == "muon":
            raise ValueError(
                "train.optimizer is 'muon', expected adamw on several processes: Muon needs whole matrices"
            )
        if config.checkpointing:
            model.activation_checkpointing_enable()  # pyright: ignore[reportCallIssue] - of transformers' models
        self.model: Any = model.to(self.accelerator.device)
        torch.backends.cuda.matmul.allow_tf32 = True  # where a GPU has it: 10 bits of mantissa, and far faster
        if self.world > 1:
            _shard(model, config, init_device_mesh(self.accelerator.device.type, (self.world,)))
        self.optimizers = _optimizers(model, config)

    def step(self, batches: Sequence[Any], step: int) -> dict[str, float]:
        """One optimisation step on this process's batches; the values that are logged, alike on all processes."""
        rate = learning_rate(self.config, step)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        seed = (self.config.seed * 1_000_003 + step) * self.world + self.accelerator.process_index
        generator = torch.Generator(self.accelerator.device).manual_seed(seed)
        self.model.train()
        batches = [batch.to(self.accelerator.device) for batch in batches]
        values: dict[str, Any] = {}
        options = self._sizes(batches)
        for number, batch in enumerate(batches, start=1):
            if self.world > 1:  # gradients are exchanged once a step
                self.model.set_requires_gradient_sync(number == len(batches))
            with self.autocast():
                losses = self.model.loss(batch, generator, *options)
            losses.total.backward()
            values = {name: values.get(name, 0) + value.detach() for name, value in losses._asdict().items()}
        if self.world > 1:
            values = {name: self.accelerator.reduce(value, "mean") for name, value in values.items()}
        found = {name: value.item() for name, value in values.items()}
        norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)).item()
        if not all(map(math.isfinite, (*found.values(), norm))):
            raise FloatingPointError(f"step {step}: the loss is {found}, the gradient's norm {norm}")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return found | {"norm": norm, "rate": rate}

    def autocast(self) -> torch.autocast:
        """The precision of matrix products."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.config.bfloat16)

    def _sizes(self, batches: Sequence[Any]) -> list[Tensor]:
        """What the losses of this step are divided by, where it is more than one batch: a mean over all of them."""
        if len(batches) * self.world == 1:
            return []
        own = torch.stack([self.model.sizes(batch) for batch in batches]).sum(0)
        return [self.accelerator.reduce(own, "sum") / self.world if self.world > 1 else own]

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, by name: parameters, buffers, and the optimizers' states of them."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        state = {f"model.{name}": p for p, name in names.items() if p.requires_grad}
        state |= {f"model.{name}": buffer for name, buffer in self.model.named_buffers()}
        for number, optimizer in enumerate(self.optimizers):
            for parameter, held in optimizer.state.items():
                state |= {f"optimizer{number}.{names[parameter]}.{key}": value for key, value in held.items()}
        return state

    def save(self, step: int) -> None:
        """Writes a checkpoint beside the old one, then names it and drops the old one: a kill leaves one, whole."""
        path, partial = self.folder / f"checkpoint-{step:06d}", self.folder / "checkpoint.partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            with _alone():
                save(self.state(), checkpoint_id=partial)
        except (CheckpointException, RuntimeError) as error:  # how torch reports a disk that is full
            shutil.rmtree(partial, ignore_errors=True)
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"{partial} could not be written, is the disk full? ({reason})") from error
        if self.accelerator.is_main_process:
            os.replace(partial, path)
            for _, old in checkpoints(self.folder)[:-1]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def resume(self) -> int:
        """Loads the newest checkpoint, if there is one; the step to go on with."""
        found = checkpoints(self.folder)
        if not found:
            return 0
        step, path = found[-1]
        reader = FileSystemReader(path)
        saved = reader.read_metadata().state_dict_metadata
        self._make_room(saved)
        state = self.state()
        wrong = sorted(state.keys() ^ saved.keys())
        if wrong:
            raise ValueError(f"{path}: {', '.join(wrong[:3])} of {len(wrong)} differ: it is of another model")
        with _alone():
            load(state, storage_reader=reader)
        return step

    def _make_room(self, saved: dict[str, Any]) -> None:
        """Gives the optimizers states as the checkpoint has them, to be filled."""
        parameters = dict(self.model.named_parameters())
        for name, entry in saved.items():
            part, _, rest = name.partition(".")
            parameter_name, _, key = rest.rpartition(".")
            if part == "model" or parameter_name not in parameters:
                continue
            parameter = parameters[parameter_name]
            alike = entry.size == parameter.shape
            room = torch.zeros_like(parameter) if alike else torch.zeros(entry.size, dtype=entry.properties.dtype)
            self.optimizers[int(part.removeprefix("optimizer"))].state[parameter][key] = room.detach()


def train(
    model: nn.Module,
    batches: Callable[[int], Sequence[Any]],
    config: TrainConfig,
    folder: Path,
    *,
    what: str,
    window: int = 1,
    sample: Callable[[int], None] | None = None,
    numbers: Callable[[int], Sequence[int]] = lambda _: (),
) -> None:
    """Trains `model` in place for `config.steps` steps, or what is left of them.

    `batches(step)` is a pure function of the step and all noise comes from a generator seeded by it, so a run that was
    killed and restarted gives the bits of one that never stopped; those of `window` steps are made in one go, ahead of
    time where there are `config.workers`. `folder` receives checkpoints and `metrics.jsonl`; `sample(step)` draws a
    sample sheet now and then; `numbers(step)` are the rows to name when a loss is no number. Raises
    `FloatingPointError` then, and `ChildProcessError` when a worker was killed; the last checkpoint stays.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(model, config, folder)
    main = trainer.accelerator.is_main_process
    first = trainer.resume()
    steps = range(first, config.steps)
    workers = num_workers(config.workers, trainer.accelerator.device.type == "cuda", trainer.world)
    with (
        Metrics(folder / "metrics.jsonl" if main else None, first) as metrics,
        progress_bar(what, config.steps, first, shown=main) as bar,
        closing(made_ahead(batches, steps, workers, window)) as made,
    ):
        for step in steps:
            began = time.perf_counter()
            try:
                values = trainer.step(next(made), step)
            except FloatingPointError as error:
                kept = (
                    f"the checkpoint of step {checkpoints(folder)[-1][0]}" if checkpoints(folder) else "no checkpoint"
                )
                rows = f", rows {list(numbers(step))}" if numbers(step) else ""
                raise FloatingPointError(f"{what}: {error}{rows}; {kept} is left in {folder}") from None
            metrics.write(step, {**values, "seconds": round(time.perf_counter() - began, 4)})
            trainer.accelerator.log(values, step)
            bar.advance(" ".join(f"{name} {value:.3f}" for name, value in values.items()))
            last = step + 1 == config.steps
            if (step + 1) % config.save_every == 0 or last:
                trainer.save(step + 1)
            if sample is not None and trainer.world == 1 and ((step + 1) % config.sample_every == 0 or last):
                model.eval()
                with trainer.autocast():
                    sample(step + 1)
    for tracker in trainer.accelerator.trackers:
        tracker.finish()
    model.eval()


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The whole checkpoints of a run, by step."""
    found = ((CHECKPOINT.fullmatch(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(match[1]), path) for match, path in found if match)


def keep_config(config: Recipe, folder: Path) -> None:
    """Writes the config of a run into its folder; `ValueError` when the folder holds a run of another one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.json"
    if path.exists() and type(config).load(path) != config:
        raise ValueError(
            f"{folder} holds a run of another config, expected the same: choose another --out or delete it"
        )
    config.save(path)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last `decay` of the steps."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    fall = min(1.0, (config.steps - step) / max(config.decay * config.steps, 1))
    return config.learning_rate * min(rise, fall)


def _accelerator(config: TrainConfig, folder: Path) -> Accelerator:
    """The processes and the trackers."""
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), log_with=config.report_to or None, project_dir=str(folder)
    )
    if config.report_to:
        if not accelerator.log_with:  # accelerate would go on without it
            raise ValueError(
                f"train.report_to is {config.report_to!r}, expected a tracker that is installed: install it"
            )
        accelerator.init_trackers("uniadgen", config=asdict(config))
    return accelerator


def _shard(model: nn.Module, config: TrainConfig, mesh: DeviceMesh) -> None:
    """FSDP2: the parameters of every layer, and those outside of layers, are spread over the processes."""
    kinds: dict[str, Any] = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if config.bfloat16 else {}
    for module in list(model.modules()):
        if isinstance(module, LAYERS):
            fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(**kinds))
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(**kinds, cast_forward_inputs=False))  # pictures stay
    register_fsdp_forward_method(model, "loss")


@contextmanager
def _alone() -> Iterator[None]:
    """torch.distributed.checkpoint warns where there is just one process; that is no mistake here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def whole(tensor: Tensor) -> Tensor:
    """A value that is spread over processes, on each of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """AdamW, in which matrices decay and vectors do not; with `muon`, Muon takes the matrices of the layers.

    Frozen parameters are left out. Muon gets the rate of AdamW: its steps are of the same size.
    """
    rest = [p for p in model.parameters() if p.requires_grad]
    optimizers: list[Optimizer] = []
    if config.optimizer == "muon":
        layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and not _is_head(m)]
        matrices = [weight for weight in layers if weight.requires_grad]
        taken = {id(weight) for weight in matrices}
        rest = [p for p in rest if id(p) not in taken]
        optimizers.append(Muon(matrices, config.learning_rate, config.weight_decay))
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [*optimizers, torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)]


def _is_head(linear: nn.Linear) -> bool:
    """A map onto a vocabulary is wider than any layer's."""
    return linear.out_features > 4 * linear.in_features
