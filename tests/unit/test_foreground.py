"""The control signal (Eq. 5): where it enters, what it reaches, and when it is exactly zero."""

import pytest
import torch

from uniadgen.config import override
from uniadgen.data.batch import Batch, collate
from uniadgen.model import weights
from uniadgen.model.foreground import drop_rows


def cutouts(num: int, side: int = 32) -> torch.Tensor:
    pixels = torch.rand(num, 4, side, side, generator=torch.Generator().manual_seed(0))
    pixels[:, :3] *= pixels[:, 3:]
    return pixels


@pytest.fixture
def batch(make_row, layout) -> Batch:
    return collate([make_row(0, 2), make_row(1, 0)], layout.pad_id)


@pytest.fixture
def control(model, batch: Batch) -> torch.Tensor:
    return model.spread_control(model.foreground(batch.cutout), batch.image_loss)


def test_every_image_cell_has_its_control_vector(model, tiny_config) -> None:
    assert model.foreground(cutouts(3)).shape == (3, tiny_config.cells, tiny_config.model.hidden_size)


def test_the_picture_may_be_of_another_size(model, tiny_config) -> None:
    assert model.foreground(cutouts(1, 96)).shape == (1, tiny_config.cells, tiny_config.model.hidden_size)


def test_a_cell_is_about_its_own_place_most_of_all(model) -> None:
    """Row by row: what changes in a corner of the picture changes the control of that corner's cell the most."""
    pixels, first, last = cutouts(1), slice(0, 8), slice(24, 32)
    for corner, rows, columns in ((0, first, first), (3, first, last), (12, last, first)):
        changed = pixels.clone()
        changed[:, :, rows, columns] = 1 - changed[:, :, rows, columns]
        difference = (model.foreground(changed) - model.foreground(pixels)).norm(dim=-1)[0]
        assert difference.argmax() == corner


def test_the_model_sees_the_alpha(model) -> None:
    pixels = cutouts(1)
    opaque = pixels.clone()
    opaque[:, 3] = 1
    assert (model.foreground(pixels) - model.foreground(opaque)).abs().max() > 1e-4


def test_a_pretrained_encoder_of_three_channels_sees_the_product_on_white(tiny_config, tokenizer) -> None:
    model, _ = weights.build(override(tiny_config, {"model.foreground_channels": 3}), tokenizer)
    nothing, white = torch.zeros(1, 4, 32, 32), torch.ones(1, 4, 32, 32)
    model.eval()
    torch.testing.assert_close(model.foreground(nothing), model.foreground(white))


def test_the_strength_scales_the_control(model) -> None:
    weak = model.foreground(cutouts(1))
    model.foreground.strength = 3.0
    torch.testing.assert_close(model.foreground(cutouts(1)), 3 * weak)


def test_dropped_rows_have_exactly_no_control(model) -> None:
    control = model.foreground(cutouts(3))
    assert (drop_rows(control, 1.0, None) == 0).all()
    assert torch.equal(drop_rows(control, 0.0, None), control)


def test_no_feature_is_no_control(model) -> None:
    assert (model.foreground.control_layers(torch.zeros(2, 3, 48)) == 0).all()


def test_the_share_of_dropped_rows_is_the_rate() -> None:
    control = drop_rows(torch.ones(4000, 2, 3), 0.3, torch.Generator().manual_seed(0))
    rows = control.flatten(1)
    assert ((rows == 0).all(-1) | (rows == 1).all(-1)).all()
    assert abs((rows == 0).all(-1).float().mean() - 0.3) < 0.03


def test_control_of_a_cell_stands_where_its_code_is_predicted(model, batch: Batch, control, tiny_config) -> None:
    per_cell = model.foreground(batch.cutout)
    for b in range(2):
        at = batch.image_loss[b].nonzero().flatten()
        assert len(at) == tiny_config.cells
        torch.testing.assert_close(control[b, at], per_cell[b])
        assert (control[b, ~batch.image_loss[b]] == 0).all()


def test_no_layer_of_transformers_sees_the_control(model, batch: Batch, control) -> None:
    seen: list[set[str]] = []
    layers = model.model.language_model.layers
    for layer in layers:
        layer.forward = lambda *args, call=layer.forward, **kwargs: seen.append(set(kwargs)) or call(*args, **kwargs)
    model.decode(model.embed(batch, model.prefer(batch)), batch.attend, batch.position, control)
    assert len(seen) == len(layers)
    assert not any("control_states" in names for names in seen)


def test_control_enters_after_every_second_layer_from_the_first(model, batch: Batch, control) -> None:
    """Eq. 5 with `control_every` = 2: what enters layers 1 and 3 is what left the layer before, plus C."""
    entered, left = [], []
    layers = model.model.language_model.layers
    for layer in layers:
        # `forward` is called after the hook that adds the control.
        layer.forward = lambda x, *args, call=layer.forward, **kwargs: entered.append(x) or call(x, *args, **kwargs)
        layer.register_forward_hook(lambda module, args, output: left.append(output))
    embeds = model.embed(batch, model.prefer(batch))
    model.decode(embeds, batch.attend, batch.position, control)
    for index, (before, after) in enumerate(zip([embeds, *left], entered, strict=False)):
        added = control if index in (1, 3) else torch.zeros_like(control)
        torch.testing.assert_close(after, before + added, msg=f"layer {index}")


def test_zero_control_is_no_control(model, batch: Batch, control) -> None:
    embeds = model.embed(batch, model.prefer(batch))
    without = model.decode(embeds, batch.attend, batch.position)
    assert torch.equal(model.decode(embeds, batch.attend, batch.position, torch.zeros_like(control)), without)


def test_control_changes_nothing_before_its_positions_and_all_after(model, batch: Batch, control) -> None:
    embeds = model.embed(batch, model.prefer(batch))
    change = model.decode(embeds, batch.attend, batch.position, control) - model.decode(
        embeds, batch.attend, batch.position
    )
    change = change.abs().amax(-1)
    for b in range(2):
        start = batch.image_loss[b].nonzero()[0, 0]
        assert (change[b, :start][batch.attend[b, :start]] == 0).all()
        assert (change[b, start:] > 1e-4).all()


def test_control_of_a_later_cell_does_not_reach_an_earlier_one(model, batch: Batch, control) -> None:
    embeds = model.embed(batch, model.prefer(batch))
    at = batch.image_loss[0].nonzero().flatten()
    other = control.clone()
    other[0, at[9]] += 1
    change = (
        model.decode(embeds, batch.attend, batch.position, control)[0]
        - model.decode(embeds, batch.attend, batch.position, other)[0]
    )
    assert (change[: at[9]] == 0).all()
    assert (change[at[9]] != 0).any()
