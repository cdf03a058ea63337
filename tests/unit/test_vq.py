"""Pictures to codes and back: the quantiser against its definition, shapes, and a codebook that stays alive."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uniadgen.config import override
from uniadgen.model import vq
from uniadgen.model.configuration import architecture
from uniadgen.model.vq import VQTrainer

# Janus' own convolutions, with cells of the same 8 pixels as the patch VQ of the tiny model.
JANUS = {"model.vq_patch": 0, "model.vq_multiplier": (1, 1, 1, 1)}


@pytest.fixture(params=["patches", "convolutions"])
def trainer(request, tiny_config, layout) -> VQTrainer:
    """A fresh VQ of either kind."""
    config = tiny_config if request.param == "patches" else override(tiny_config, JANUS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VQTrainer(architecture(config, layout.pad_id))


@pytest.fixture
def codec(trainer: VQTrainer):
    return trainer.vq.eval()


def pictures(num: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_a_code_is_the_nearest_of_the_normalised_codebook(codec) -> None:
    codes = vq.encode(codec, pictures(3))
    latents = codec.quant_conv(codec.encoder(pictures(3))).numpy()
    book = codec.quantize.embedding.weight.numpy()
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    for b in range(3):
        for cell in range(16):
            latent = unit(latents[b, :, cell // 4, cell % 4])
            distances = [np.sum((latent - unit(code)) ** 2) for code in book]
            assert codes[b, cell] == int(np.argmin(distances))


@torch.no_grad()
def test_the_length_of_a_code_means_nothing(codec) -> None:
    before = vq.encode(codec, pictures(2))
    painted = vq.decode(codec, before)
    codec.quantize.embedding.weight.mul_(torch.linspace(0.1, 9, 64)[:, None])
    assert torch.equal(vq.encode(codec, pictures(2)), before)
    torch.testing.assert_close(vq.decode(codec, before), painted)


@torch.no_grad()
@pytest.mark.parametrize("side", [16, 32, 64])
def test_a_picture_of_any_size_comes_back_in_its_size(codec, side: int) -> None:
    codes = vq.encode(codec, pictures(2, side))
    assert codes.shape == (2, (side // 8) ** 2)
    assert vq.decode(codec, codes).shape == (2, 3, side, side)


@torch.no_grad()
def test_codes_run_row_by_row(codec) -> None:
    codes = torch.arange(16)[None]
    square = vq.look_up(codec, codes)[0]
    torch.testing.assert_close(square[:, 1, 2], F.normalize(codec.quantize.embedding.weight[6], dim=0))


@torch.no_grad()
def test_codes_that_are_no_square_are_refused(codec) -> None:
    with pytest.raises(ValueError, match="got 15 codes, expected a square"):
        vq.decode(codec, torch.zeros(1, 15, dtype=torch.long))


@torch.no_grad()
def test_a_patch_means_the_same_in_pictures_of_any_size(tiny_config, layout) -> None:
    """A click is coded as if it were a corner of a large picture: a code says the same in both."""
    codec = VQTrainer(architecture(tiny_config, layout.pad_id)).vq
    large = pictures(1, 96)
    whole = vq.encode(codec, large).view(12, 12)
    part = vq.encode(codec, large[:, :, :64, :64]).view(8, 8)
    assert torch.equal(whole[:5, :5], part[:5, :5])  # two blocks look two cells around


def past_warm_up(trainer: VQTrainer) -> None:
    trainer.steps.fill_(trainer.WARM_STEPS + 1)


def test_the_loss_teaches_encoder_decoder_and_codebook(trainer: VQTrainer) -> None:
    past_warm_up(trainer)
    trainer.train()
    trainer.loss(pictures(4), torch.Generator().manual_seed(0)).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainer.parameters())
    assert all(p.grad.abs().max() > 0 for p in trainer.parameters())


def test_training_makes_the_picture_better(trainer: VQTrainer) -> None:
    past_warm_up(trainer)
    trainer.train()
    optimizer = torch.optim.AdamW(trainer.parameters(), 3e-3)
    losses = []
    for step in range(12):
        loss = trainer.loss(pictures(4), torch.Generator().manual_seed(step))
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss.pixel + loss.edge).item())
    assert losses[-1] < 0.95 * losses[0]


@torch.no_grad()
def test_dead_codes_are_moved_onto_latents_of_the_batch(trainer: VQTrainer) -> None:
    past_warm_up(trainer)
    trainer.train()
    book = trainer.vq.quantize.embedding.weight
    before = book.clone()
    trainer.usage.fill_(1.0)
    trainer.usage[[3, 8, 40]] = 0.0
    trainer.loss(pictures(4), torch.Generator().manual_seed(0))
    moved = (book != before).any(-1).nonzero().flatten().tolist()
    assert moved == [3, 8, 40]
    latents = trainer.vq.quant_conv(trainer.vq.encoder(pictures(4)))
    latents = F.normalize(latents, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
    assert ((book[moved, None] - latents).norm(dim=-1).amin(-1) < 1e-4).all()


@torch.no_grad()
def test_codes_in_use_stay_where_they_are(trainer: VQTrainer) -> None:
    past_warm_up(trainer)
    trainer.train()
    trainer.usage.fill_(1.0)
    before = trainer.vq.quantize.embedding.weight.clone()
    trainer.loss(pictures(4), torch.Generator().manual_seed(0))
    assert torch.equal(trainer.vq.quantize.embedding.weight, before)


@torch.no_grad()
def test_a_code_that_nobody_chooses_dies_in_time(trainer: VQTrainer) -> None:
    past_warm_up(trainer)
    trainer.train()
    trainer.usage.fill_(1.0)
    before = trainer.vq.quantize.embedding.weight.clone()
    steps = 0
    while torch.equal(trainer.vq.quantize.embedding.weight, before):
        trainer.loss(pictures(1), torch.Generator().manual_seed(steps))
        steps += 1
        assert steps < 200
    assert steps > 20


@torch.no_grad()
def test_measuring_changes_no_code(trainer: VQTrainer) -> None:
    past_warm_up(trainer)
    trainer.eval()
    trainer.usage.zero_()
    before = trainer.vq.quantize.embedding.weight.clone()
    trainer.loss(pictures(2))
    assert torch.equal(trainer.vq.quantize.embedding.weight, before)
