"""The joint loss (Eq. 2 to 4): who learns from it, who does not, and that rows of a batch do not meet."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from uniadgen.config import override
from uniadgen.data.batch import Batch, Kind, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.model import weights
from uniadgen.model.uniadgen import seen


@pytest.fixture
def batch(make_row: Callable[..., Row], layout: Layout) -> Batch:
    """Rows with 3, 0 and 1 clicks."""
    return collate([make_row(0, 3), make_row(1, 0), make_row(2, 1)], layout.pad_id)


@pytest.mark.parametrize("which", ["fresh_model", "model"])
def test_every_parameter_that_is_to_learn_gets_a_gradient(which: str, batch: Batch, request) -> None:
    """Also in the first step, where some parts are zero: hard choices and zeros are where gradients silently die."""
    model = request.getfixturevalue(which).train()
    model.config.condition_dropout = 0.0
    model.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    if which == "fresh_model":  # the word preference learns after it was started, see test_adworld.py
        dead = [name for name in dead if not name.startswith("word_preference.")]
    assert dead == []


def test_what_does_not_learn_is_the_vq_and_the_parts_of_the_base_models_off_our_path(model) -> None:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    prefixes = ("model.vqmodel.", "model.vision_model.", "model.aligner.", "foreground.dinov2.embeddings.mask_token")
    assert all(name.startswith(prefixes) for name in frozen)
    assert all(any(name.startswith(prefix) for name in frozen) for prefix in prefixes)


def test_the_loss_is_the_cross_entropy_of_the_next_word_and_of_the_next_code(model, batch: Batch) -> None:
    hidden = model.read(batch, model.prefer(batch))
    following = batch.ids.roll(-1, dims=1)
    words, codes = batch.text_loss, batch.image_loss
    losses = model.loss(batch)
    likeness = model.alike(batch)[words.nonzero()[:, 0]]
    scores = model.lm_head(hidden[words]) + model.word_preference.weigh(hidden[words], likeness)
    torch.testing.assert_close(losses.text, F.cross_entropy(scores, following[words]))
    each = F.cross_entropy(model.model.generation_head(hidden[codes]), following[codes], reduction="none")
    weights = (1 + 20 * torch.exp(-torch.arange(16) / 4)).repeat(3)  # of 4 x 4 cells, in three rows
    torch.testing.assert_close(losses.image, (each * weights).sum() / weights.sum())


def test_a_rows_loss_does_not_depend_on_its_neighbours(model, make_row: Callable[..., Row], layout: Layout) -> None:
    rows = [make_row(0, 3), make_row(1, 0), make_row(2, 1), make_row(3, 4)]
    batch = collate(rows, layout.pad_id)
    together = model.loss(batch)
    alone = [model.loss(collate([row], layout.pad_id)) for row in rows]
    for part, positions in (("text", batch.text_loss), ("image", batch.image_loss)):
        weight = positions.sum(-1) / positions.sum()
        expected = sum(w * getattr(losses, part) for w, losses in zip(weight, alone, strict=True))
        torch.testing.assert_close(getattr(together, part), expected, atol=1e-5, rtol=0)


def test_hidden_states_of_a_row_do_not_depend_on_its_neighbours(model, make_row, layout: Layout) -> None:
    rows = [make_row(0, 3), make_row(1, 0), make_row(2, 1)]

    def states(rows: list[Row]) -> list[torch.Tensor]:
        batch = collate(rows, layout.pad_id)
        return [row[attend] for row, attend in zip(model.read(batch, model.prefer(batch)), batch.attend, strict=True)]

    for together, row in zip(states(rows), rows, strict=True):
        torch.testing.assert_close(together, states([row])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_model_of_one_modality_learns_that_one_alone(
    modality: str, tiny_config, tokenizer, make_row: Callable[..., Row]
) -> None:
    model, layout = weights.build(override(tiny_config, {"data.modality": modality}), tokenizer)
    batch = collate([make_row(0, 2, using=layout), make_row(1, 0, using=layout)], layout.pad_id)
    losses = model.train().loss(batch, torch.Generator().manual_seed(0))
    assert getattr(losses, modality) > 0
    assert getattr(losses, {"text": "image", "image": "text"}[modality]) == 0
    losses.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_weights_of_the_two_losses_are_the_configs(model, batch: Batch) -> None:
    model.config.text_weight, model.config.image_weight = 0.3, 2.0
    losses = model.loss(batch)
    torch.testing.assert_close(losses.total, 0.3 * losses.text + 2.0 * losses.image)


def test_the_loss_of_a_step_depends_on_its_generator_alone(model, batch: Batch) -> None:
    model.train()
    model.config.condition_dropout = 0.5
    once, again, other = (model.loss(batch, torch.Generator().manual_seed(seed)).total for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_there_is_no_chance_in_the_loss_outside_training(model, batch: Batch) -> None:
    assert len({model.loss(batch, torch.Generator().manual_seed(seed)).total.item() for seed in range(3)}) == 1


def test_a_dropped_condition_is_a_row_without_product(model, batch: Batch) -> None:
    model.train()
    model.config.condition_dropout = 1.0
    losses = model.loss(batch, torch.Generator().manual_seed(0))
    other = Batch(**{**vars(batch), "cutout": torch.rand_like(batch.cutout)})
    assert model.loss(other, torch.Generator().manual_seed(0)).total == losses.total


def test_another_product_picture_changes_the_picture_and_not_the_text(model, batch: Batch) -> None:
    other = Batch(**{**vars(batch), "cutout": torch.rand_like(batch.cutout)})
    one, two = model.loss(batch), model.loss(other)
    assert one.text == two.text
    assert one.image != two.image


def test_another_history_changes_text_and_picture_of_its_row_alone(model, batch: Batch) -> None:
    codes = batch.click_codes.clone()
    codes[0] = (codes[0] + 1) % 64
    other = Batch(**{**vars(batch), "click_codes": codes})
    states = lambda batch: model.decode(model.embed(batch, model.prefer(batch)), batch.attend, batch.position)  # noqa: E731
    change = (states(batch) - states(other)).abs().amax(-1)
    assert change[0, batch.text_loss[0]].min() > 1e-5
    assert (change[1:] == 0).all()


def test_a_batch_of_shoppers_without_clicks_can_be_learnt(model, make_row: Callable[..., Row], layout: Layout) -> None:
    batch = collate([make_row(0, 0), make_row(1, 0)], layout.pad_id)
    losses = model.train().loss(batch, torch.Generator().manual_seed(0))
    losses.total.backward()
    assert losses.total.isfinite()


def painted_codes(model, batch: Batch, seed: int) -> torch.Tensor:
    """(B, K): which codes already painted are visible to the next ones."""
    at = batch.kind == Kind.IMAGE
    embeds = model.embed(batch, None, torch.Generator().manual_seed(seed))
    return (embeds[at] != 0).any(-1).view(len(batch.ids), -1)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_code_dropout_hides_codes_in_a_share_of_rows_here_few_and_there_many(model, batch: Batch, rate: float) -> None:
    model.train()
    model.config.code_dropout = rate
    seen = torch.cat([painted_codes(model, batch, seed) for seed in range(150)])
    assert seen.all(-1).float().mean().item() == pytest.approx(1 - rate, abs=0.1)
    if rate:
        hidden = (~seen[~seen.all(-1)]).float().mean(-1)
        assert hidden.quantile(0.1) < 0.4 and hidden.quantile(0.9) > 0.7


def test_code_dropout_hides_nothing_but_codes_and_nothing_outside_training(model, make_row, layout: Layout) -> None:
    batch = collate([make_row(0, 0), make_row(1, 0)], layout.pad_id)
    model.config.code_dropout = 1.0
    whole = model.embed(batch, None, torch.Generator().manual_seed(0))
    assert torch.equal(whole, model.embed(batch, model.prefer(batch)))
    hiding = model.train().embed(batch, None, torch.Generator().manual_seed(0))
    changed = (whole != hiding).any(-1)
    assert changed.any()
    assert (batch.kind[changed] == Kind.IMAGE).all()


def test_padding_sees_itself_alone_and_all_else_what_is_before_it() -> None:
    """A query that sees nothing has gradients that are no numbers on a GPU."""
    attend = torch.tensor([[False, False, True, True], [True, True, True, True]])
    assert seen(attend, 4)[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert torch.equal(seen(attend, 4)[1, 0], torch.ones(4, 4).tril().bool())
    assert torch.equal(seen(attend, 2), seen(attend, 4)[:, :, 2:])
