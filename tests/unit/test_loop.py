"""The training loop: killed and restarted it gives the bits of a run that never stopped."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from checkpoint import saved
from uniadgen.config import TrainConfig
from uniadgen.data.batch import collate
from uniadgen.train.loop import Trainer, checkpoints, learning_rate, train
from uniadgen.train.muon import Muon

CONFIG = TrainConfig(steps=12, batch_size=2, learning_rate=1e-2, warmup=3, decay=0.5, save_every=4, sample_every=5)


class Loss(NamedTuple):
    total: Tensor
    other: Tensor


class Toy(nn.Module):
    """Anything with .loss(batch, generator): a hidden layer, a frozen one, and noise."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Loss:
        noise = torch.rand(batch.shape, generator=generator)
        error = (self.frozen(self.layer(batch + noise)) - batch).pow(2).mean()
        return Loss(error, error.detach() * 2)


def batches(step: int) -> list[Tensor]:
    return [torch.randn(2, 4, generator=torch.Generator().manual_seed(step))]


def run(folder: Path, config: TrainConfig = CONFIG, batches=batches, **options) -> Toy:
    toy = Toy()
    train(toy, batches, config, folder, what="toy", **options)
    return toy


def lines(folder: Path) -> list[dict]:
    """The metrics without the time that a step took."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read]


def same_bits(one: Path, other: Path) -> bool:
    """Model and optimizers, after as many steps."""
    assert checkpoints(one)[-1][0] == checkpoints(other)[-1][0]
    a, b = saved(one), saved(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def dies(at: int):
    """Batches that run out of luck at a step."""

    def call(step: int) -> Tensor:
        if step == at:
            raise KeyboardInterrupt
        return batches(step)

    return call


# resuming

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = [{here!r}, {above!r}]
from test_loop import CONFIG, batches, run

def deadly(step):
    if step == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return batches(step)

run(Path({folder!r}), CONFIG, deadly)
"""


def test_a_run_that_was_killed_goes_on_to_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    here = Path(__file__).parent
    script = KILLED.format(here=str(here), above=str(here.parent), folder=str(tmp_path / "killed"))
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [line["step"] for line in lines(tmp_path / "killed")] == list(range(10))  # two steps past the checkpoint
    run(tmp_path / "killed")
    run(tmp_path / "whole")
    assert same_bits(tmp_path / "killed", tmp_path / "whole")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("at", [0, 3, 4, 5, 11])
def test_a_run_may_stop_at_any_step(tmp_path: Path, at: int, optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", config, dies(at))
    run(tmp_path / "stopped", config)
    run(tmp_path / "whole", config)
    assert same_bits(tmp_path / "stopped", tmp_path / "whole")
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_a_line_that_was_being_written_at_the_kill_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", batches=dies(9))
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "tot')
    run(tmp_path / "stopped")
    run(tmp_path / "whole")
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_a_checkpoint_that_was_being_written_at_the_kill_is_ignored(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", batches=dies(9))
    partial = tmp_path / "stopped" / "checkpoint.partial"
    partial.mkdir()
    (partial / ".metadata").write_bytes(b"half of it")
    run(tmp_path / "stopped")
    run(tmp_path / "whole")
    assert same_bits(tmp_path / "stopped", tmp_path / "whole")


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    again = run(tmp_path, batches=dies(0))
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert torch.equal(first.layer.weight, again.layer.weight)


def test_the_tiny_model_itself_goes_on_to_the_bits(fresh_model, make_row, layout, tmp_path: Path) -> None:
    """Preference noise, condition dropout, autocast and Muon included."""
    config = replace(CONFIG, steps=4, save_every=2, optimizer="muon")
    rows = lambda step: [collate([make_row(2 * step, 2), make_row(2 * step + 1, 0)], layout.pad_id)]  # noqa: E731
    start = {name: tensor.clone() for name, tensor in fresh_model.state_dict().items()}

    def stopped(step: int):
        if step == 3:
            raise KeyboardInterrupt
        return rows(step)

    train(fresh_model, rows, config, tmp_path / "whole", what="model")
    fresh_model.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        train(fresh_model, stopped, config, tmp_path / "stopped", what="model")
    fresh_model.load_state_dict(start)
    train(fresh_model, rows, config, tmp_path / "stopped", what="model")
    assert same_bits(tmp_path / "stopped", tmp_path / "whole")
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


# what a step does


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_trained_once_and_frozen_ones_are_not(tmp_path: Path, optimizer: str) -> None:
    toy, before = run(tmp_path, replace(CONFIG, optimizer=optimizer)), Toy()
    assert not torch.equal(toy.layer.weight, before.layer.weight)
    assert not torch.equal(toy.layer.bias, before.layer.bias)
    assert torch.equal(toy.frozen.weight, before.frozen.weight)
    held = [name.partition(".")[2].rpartition(".")[0] for name in saved(tmp_path) if name.startswith("optimizer")]
    assert set(held) == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_all_that_is_to_learn_of_the_model_moves_in_a_step(
    fresh_model, make_row, layout, tmp_path: Path, optimizer
) -> None:
    before = {name: parameter.detach().clone() for name, parameter in fresh_model.named_parameters()}
    batch = collate([make_row(0, 3), make_row(1, 0)], layout.pad_id)
    config = replace(CONFIG, steps=2, warmup=0, decay=0.0, optimizer=optimizer)
    train(fresh_model, lambda step: [batch], config, tmp_path, what="model")
    still = {name for name, parameter in fresh_model.named_parameters() if torch.equal(before[name], parameter)}
    assert all(
        name.startswith(
            ("model.vqmodel.", "model.vision_model.", "model.aligner.", "foreground.dinov2.embeddings.mask_token")
        )
        for name in still
    ), still
    assert {name for name in before if name.startswith("model.vqmodel.")} <= still


def test_every_step_draws_noise_of_its_own(tmp_path: Path) -> None:
    noises = []

    class Listening(Toy):
        def loss(self, batch: Tensor, generator: torch.Generator) -> Loss:
            noises.append(torch.rand(1, generator=generator.clone_state()).item())
            return super().loss(batch, generator)

    train(Listening(), batches, CONFIG, tmp_path, what="toy")
    assert len(set(noises)) == CONFIG.steps


def test_matrices_decay_and_vectors_do_not(tmp_path: Path) -> None:
    toy = Toy()
    (optimizer,) = Trainer(toy, replace(CONFIG, weight_decay=0.25), tmp_path).optimizers
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(toy.layer.weight): 0.25, id(toy.layer.bias): 0.0}


def test_every_step_is_logged_with_its_losses_norm_and_rate(tmp_path: Path) -> None:
    run(tmp_path)
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == list(range(12))
    assert all(line.keys() == {"step", "total", "other", "norm", "rate"} for line in logged)
    assert [line["rate"] for line in logged] == [learning_rate(CONFIG, step) for step in range(12)]
    assert logged[-1]["total"] < logged[0]["total"]


def test_samples_are_drawn_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    sampled = []
    run(tmp_path, sample=sampled.append)
    assert sampled == [5, 10, 12]


def test_a_sample_is_drawn_from_a_model_at_rest(tmp_path: Path) -> None:
    toy, modes = Toy(), []
    train(toy, batches, CONFIG, tmp_path, what="toy", sample=lambda step: modes.append(toy.training))
    assert modes == [False] * 3
    assert not toy.training


def test_gradients_are_clipped(tmp_path: Path) -> None:
    class Steep(Toy):
        def loss(self, batch: Tensor, generator: torch.Generator) -> Loss:
            loss = super().loss(batch, generator)
            return Loss(loss.total * 1e6, loss.other)

    config = replace(CONFIG, steps=1, warmup=0, decay=0.0, clip=1e-9, learning_rate=1.0, weight_decay=0.0)
    toy = Steep()
    train(toy, batches, config, tmp_path, what="toy")
    assert lines(tmp_path)[0]["norm"] > 1e3  # logged as it was
    # AdamW divides by the gradient's size plus 1e-8: of a gradient clipped to 1e-9 little is left.
    assert (toy.layer.weight - Toy().layer.weight).abs().max() < 0.2


def test_a_loss_that_is_not_a_number_stops_the_run_at_once(tmp_path: Path) -> None:
    broken = lambda step: [batches(step)[0] * (float("nan") if step == 5 else 1)]  # noqa: E731
    with pytest.raises(FloatingPointError, match=r"toy: step 5: .* rows \[10, 11\]; the checkpoint of step 4 is left"):
        run(tmp_path, batches=broken, numbers=lambda step: [2 * step, 2 * step + 1])
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]
    assert not any(tensor.isnan().any() for tensor in saved(tmp_path).values())


@pytest.mark.filterwarnings("ignore:.*no supported trackers")  # accelerate's own
@pytest.mark.parametrize(("name", "said"), [("aim", "expected a tracker that is installed"), ("nothing", "nothing")])
def test_a_tracker_that_is_not_there_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(tmp_path, replace(CONFIG, report_to=name))


# the rate


def test_the_rate_rises_stays_and_falls() -> None:
    config = TrainConfig(steps=100, learning_rate=1.0, warmup=10, decay=0.2)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[9:81] == pytest.approx([1.0] * 72)
    assert rates[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)])
    assert min(rates) > 0


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    config = TrainConfig(steps=100, learning_rate=0.3, warmup=0, decay=0.0)
    assert {learning_rate(config, step) for step in range(100)} == {0.3}


def test_a_short_run_rises_and_falls_at_once() -> None:
    config = TrainConfig(steps=4, learning_rate=1.0, warmup=10, decay=1.0)
    assert all(0 < learning_rate(config, step) <= 0.4 for step in range(4))


def test_training_seeds_no_global_generator(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    run(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_draws_other_noise(tmp_path: Path) -> None:
    one, other = run(tmp_path / "0"), run(tmp_path / "1", replace(CONFIG, seed=1))
    assert not torch.equal(one.layer.weight, other.layer.weight)


def test_the_checkpoint_is_the_only_file_that_is_left_of_a_save(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-000012", "metrics.jsonl"]


# several batches, several processes


def test_rows_worked_on_one_by_one_give_the_step_of_all_rows_together(
    fresh_model, make_row, layout, tmp_path: Path
) -> None:
    """Texts of different lengths, with and without clicks; what is random, is random in each batch."""
    rows = [make_row(0, 2), make_row(1, 0), make_row(2, 3)]
    start = {name: tensor.clone() for name, tensor in fresh_model.state_dict().items()}
    config = replace(CONFIG, steps=2, bfloat16=False)
    fresh_model.eval()
    fresh_model.train = lambda mode=True: fresh_model  # it stays at rest: no noise
    train(fresh_model, lambda _: [collate(rows, layout.pad_id)], config, tmp_path / "together", what="model")
    fresh_model.load_state_dict(start)
    one_by_one = [collate([row], layout.pad_id) for row in rows]
    train(fresh_model, lambda _: one_by_one, config, tmp_path / "alone", what="model")
    for a, b in zip(lines(tmp_path / "together"), lines(tmp_path / "alone"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_muon_is_torchs_for_all_matrices_of_a_shape_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 16), (24, 16), (16, 24), (16, 16), (24, 16)]
    starts = [torch.randn(*shape, generator=generator) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    frozen = torch.nn.Parameter(torch.ones(16, 16))  # nobody has a gradient for it
    optimizers = (
        Muon([*ours, frozen], lr=0.1, weight_decay=0.3),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, start in zip(ours, theirs, starts, strict=True):
        assert (one - start).abs().max() > 0.05
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)  # bfloat16, summed in another order
    assert torch.equal(frozen, torch.ones(16, 16))


def test_muon_on_several_processes_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(ValueError, match="expected adamw on several processes"):
        run(tmp_path, replace(CONFIG, optimizer="muon"))
