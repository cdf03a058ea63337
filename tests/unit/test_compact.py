"""`model.compact`: click tokens that were not kept are not in the sequence, in training and when ads are made."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from uniadgen.config import Config, GenerateConfig, override
from uniadgen.data.batch import Batch, Kind, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.loop import Decoder, Progress
from uniadgen.engine.reference import Made, Reference
from uniadgen.engine.released import ReleaseShaped
from uniadgen.engine.together import FastDecoder
from uniadgen.recipes import nano, recipe

POINTS = ("kitchen mug", "dishwasher safe")
GUIDED = GenerateConfig(guidance=3.0, text_top_k=0, image_top_k=0, max_words=5)
# (clicks, seed) of every request of a batch; the last batch are candidates of one request.
BATCHES = (((3, 1),), ((3, 1), (0, 2), (1, 3)), ((3, 1), (3, 4)))


@pytest.fixture
def compact(model):
    model.config.compact = True
    return model


@pytest.fixture
def batch(make_row: Callable[..., Row], layout: Layout) -> Batch:
    """Rows with 3, 0 and 1 clicks."""
    return collate([make_row(0, 3), make_row(1, 0), make_row(2, 1)], layout.pad_id)


def count(batch: Batch, kind: Kind) -> list[int]:
    return (batch.kind == kind).sum(-1).tolist()


# the sequence


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.75])
def test_a_prompt_is_as_much_shorter_as_tokens_were_dropped(compact, batch: Batch, rate: float) -> None:
    for extractor in (compact.preference.text_extractor, compact.preference.image_extractor):
        extractor.keep_rate = rate
    short = compact.as_read(batch, compact.prefer(batch))
    for kind in (Kind.CLICK_TEXT, Kind.CLICK_IMAGE):
        before, after = count(batch, kind), count(short, kind)
        assert before[1] == after[1] == 0
        assert [after[0], after[2]] == [max(int(rate * number), 1) for number in (before[0], before[2])]
    for kind in (Kind.PROMPT, Kind.TEXT, Kind.IMAGE):
        for row in range(3):
            assert torch.equal(short.ids[row][short.kind[row] == kind], batch.ids[row][batch.kind[row] == kind])
    lengths = short.attend.sum(-1)
    assert short.ids.shape[1] == lengths.max()
    for attend, position, length in zip(short.attend, short.position, lengths.tolist(), strict=True):
        assert attend[-length:].all()  # padded on the left
        assert torch.equal(position[attend], torch.arange(length))


def test_what_stays_in_the_places_of_the_history_is_what_was_kept(compact, batch: Batch) -> None:
    fused = compact.prefer(batch)
    short = compact.as_read(batch, fused)
    embeds = compact.embed(short, fused)
    selections = (
        (fused.text_selection, fused.text, Kind.CLICK_TEXT),
        (
            fused.image_selection,
            fused.image,
            Kind.CLICK_IMAGE,
        ),
    )
    for selection, tokens, kind in selections:
        for row in range(3):
            kept = tokens[row].flatten(0, 1)[selection.mask[row] > 0.5]
            assert torch.equal(embeds[row][short.kind[row] == kind], kept)


def test_where_all_is_kept_nothing_changes(model, batch: Batch) -> None:
    for extractor in (model.preference.text_extractor, model.preference.image_extractor):
        extractor.keep_rate = 1.0
    plain = model.loss(batch)
    model.config.compact = True
    for one, other in zip(plain, model.loss(batch), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_where_not_all_is_kept_the_loss_is_another(model, batch: Batch) -> None:
    plain = model.loss(batch).total
    model.config.compact = True
    assert (model.loss(batch).total - plain).abs() > 1e-4


def test_there_is_nothing_to_drop_without_extraction(tiny_config: Config) -> None:
    changes = {"model.extractor_layers": 0, "model.fusion_layers": 0, "model.compact": True}
    with pytest.raises(ValueError, match=r"model.compact is True, expected false where model.extractor_layers is 0"):
        override(tiny_config, changes)


def test_its_recipe_is_nano_but_for_that() -> None:
    assert recipe("nano_compact") == override(nano(), {"name": "nano_compact", "model.compact": True})


# training


def test_every_parameter_that_is_to_learn_gets_a_gradient(compact, batch: Batch) -> None:
    compact.train().config.condition_dropout = 0.0
    compact.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    dead = [
        name
        for name, parameter in compact.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    assert dead == []


def test_extractors_learn_through_the_prompt_alone(compact, batch: Batch) -> None:
    """Without the history's control, which sees all tokens: what was kept counts as much as its mask says."""
    fused = compact.prefer(batch)
    short = compact.as_read(batch, fused)
    hidden = compact.decode(compact.embed(short, fused), short.attend, short.position)
    hidden[short.text_loss].square().sum().backward()
    for extractor in (compact.preference.text_extractor, compact.preference.image_extractor):
        for name, parameter in extractor.named_parameters():
            assert parameter.grad.abs().max() > 0, name


def test_a_rows_loss_does_not_depend_on_its_neighbours(compact, make_row: Callable[..., Row], layout: Layout) -> None:
    rows = [make_row(0, 3), make_row(1, 0), make_row(2, 1), make_row(3, 4)]
    batch = collate(rows, layout.pad_id)
    together = compact.loss(batch)
    alone = [compact.loss(collate([row], layout.pad_id)) for row in rows]
    for part, positions in (("text", batch.text_loss), ("image", batch.image_loss)):
        weight = positions.sum(-1) / positions.sum()
        expected = sum(w * getattr(losses, part) for w, losses in zip(weight, alone, strict=True))
        torch.testing.assert_close(getattr(together, part), expected, atol=1e-5, rtol=0)


# ads


@pytest.fixture
def branches(make_row: Callable[..., Row]) -> Callable[[int], list[Row]]:
    """Both rows of a request with so many clicks."""

    def rows(num_clicks: int) -> list[Row]:
        row = make_row(0, num_clicks, target=False)
        return [row, replace(make_row(0, 0, target=False), cutout=row.cutout)]

    return rows


def ask(decoder: Decoder | FastDecoder, requests: list[list[Row]]) -> Progress:
    rows = [branch for branches in zip(*requests, strict=True) for branch in branches]
    *_, last = decoder.run(collate(rows, decoder.layout.pad_id))
    return last


@pytest.mark.parametrize("by_chance", [False, True])
def test_every_decoder_makes_the_references_tokens_whoever_is_beside(
    compact, layout: Layout, branches, by_chance: bool
) -> None:
    """Also where chance takes part in what is kept."""
    for extractor in (compact.preference.text_extractor, compact.preference.image_extractor):
        extractor.gumbel_at_inference = by_chance
    compact.config.gumbel_at_inference = by_chance
    expected = {}
    for clicks, seed in {request for batch in BATCHES for request in batch}:
        expected[clicks, seed] = Reference(compact, layout, GUIDED, branches(clicks), seed).make(POINTS)
    for batch in BATCHES:
        seeds, requests = [seed for _, seed in batch], [branches(clicks) for clicks, _ in batch]
        points = [POINTS] * len(batch)
        for decoder in (
            Decoder(compact, layout, GUIDED, seeds, points),
            ReleaseShaped(compact, layout, GUIDED, seeds, points),
            FastDecoder(Engine(compact, positions=12), layout, GUIDED, seeds, points),
        ):
            last = ask(decoder, requests)
            made = [Made(w, tuple(c)) for w, c in zip(last.words, last.codes.tolist(), strict=True)]
            assert made == [expected[request] for request in batch]


def test_keys_and_values_of_a_prompt_are_as_many_as_stayed(compact, layout: Layout, branches, monkeypatch) -> None:
    engine, lengths = Engine(compact), []
    read = engine.layers.read
    monkeypatch.setattr(engine.layers, "read", lambda embeds: lengths.append(len(embeds)) or read(embeds))
    rows = branches(3)
    ask(FastDecoder(engine, layout, GUIDED, [0], [POINTS]), [rows])
    batch = collate(rows[:1], layout.pad_id)
    dropped = sum(number - max(int(0.4 * number), 1) for number in (count(batch, Kind(k))[0] for k in (2, 3)))
    assert lengths == [len(rows[0].ids) - dropped, len(rows[1].ids)]
    assert dropped > 0
