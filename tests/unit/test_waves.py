"""Staggered rows of cells: the order, what a model sees in it, and every decoder against the plain reference."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from uniadgen.config import Config, GenerateConfig, override
from uniadgen.data.batch import Kind, Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.data.waves import NOTHING, waves
from uniadgen.engine.engine import Engine
from uniadgen.engine.loop import Decoder, Progress
from uniadgen.engine.reference import Made, Reference
from uniadgen.engine.released import ReleaseShaped
from uniadgen.engine.together import FastDecoder
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration

POINTS = ("kitchen mug", "dishwasher safe")
GUIDED = GenerateConfig(guidance=3.0, text_top_k=0, image_top_k=0, max_words=5)
FEATURES = {
    "guided": GUIDED,
    "not guided, greedy": replace(GUIDED, guidance=1.0, temperature=0.0),
    "half of the picture guided, faithful text": replace(
        GUIDED, guidance_until=0.5, connecting_words=("and", ","), text_top_k=3, image_top_k=9, max_words=9
    ),
    "product skipped": replace(GUIDED, skip_product=True, leave_out="both"),
}
# (clicks, seed) of every request of a batch; the last batch are candidates of one request.
BATCHES = (((3, 1),), ((3, 1), (0, 2), (1, 3)), ((3, 1), (3, 4), (3, 5)))


@pytest.fixture(params=[1, 2, 4], ids=lambda lag: f"lag {lag}")
def staggered(request: pytest.FixtureRequest, model, layout: Layout) -> tuple[UniAdGenForConditionalGeneration, Layout]:
    """The tiny model with rows of four cells, each so many cells behind the one above it."""
    model.config.row_lag = request.param
    return model, Layout(layout.tokenizer, override(layout.config, {"model.row_lag": request.param}))


# the order


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_every_cell_is_painted_once_after_what_it_stands_on(lag: int) -> None:
    steps = waves(25, lag)
    painted = {cell: step for step, wave in enumerate(steps) for cell in wave.painted}
    assert sorted(painted) == list(range(25)) and sum(len(wave.painted) for wave in steps) == 25
    fed = {cell: step for step, wave in enumerate(steps) for cell in wave.fed if cell != NOTHING}
    assert all(step == painted[cell] + 1 for cell, step in fed.items())  # as soon as it is known
    assert set(range(25)) - set(fed) == {24}  # nothing comes after the last one
    if lag:
        assert painted == {5 * row + column: column + lag * row for row in range(5) for column in range(5)}
        assert len(steps) == 5 + 4 * lag


def test_what_is_fed_stands_before_the_cell_that_it_predicts() -> None:
    for wave in waves(25, 2):
        assert len(wave.places) == len(wave.fed)
        for fed, place in zip(wave.fed, wave.places, strict=True):
            assert fed == (NOTHING if place % 5 == 0 and place in wave.painted else place - 1)
        assert wave.places[: len(wave.painted)] == wave.painted


def test_without_a_lag_it_is_one_cell_after_the_other() -> None:
    assert [(wave.fed, wave.painted) for wave in waves(4, 0)] == [
        ((-1,), (0,)),
        ((0,), (1,)),
        ((1,), (2,)),
        ((2,), (3,)),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.row_lag": -1}, r"model.row_lag is -1, expected 0 \(one cell after the other\) or more"),
        ({"model.row_lag": 5}, "model.row_lag is 5, expected at most the 4 cells of a row"),
        (
            {
                "model.row_lag": 1,
                "model.variant": "release",
                "model.preference_control": False,
                "model.word_preference": 0,
            },
            "model.row_lag is 1, expected 0 in the variant release",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_config: Config, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(tiny_config, changes)


# the model


def test_rows_begin_anew_in_what_is_read(make_row: Callable[..., Row], layout: Layout) -> None:
    batch = collate([make_row(0), make_row(1, 0)], layout.pad_id)
    read = batch.with_rows()
    for row in range(2):
        begins, codes = read.kind[row] == Kind.ROW, read.kind[row] == Kind.IMAGE
        assert read.kind[row, -20:].tolist() == [5, 5, 5, 5, *[Kind.ROW, 5, 5, 5, 5] * 3, Kind.PROMPT]
        assert read.ids[row][begins].tolist() == [layout.start_image] * 3
        assert torch.equal(read.ids[row][codes], batch.ids[row][batch.kind[row] == Kind.IMAGE])
        where = read.position[row][codes]
        assert where.tolist() == list(range(int(where[0]), int(where[0]) + 16))  # as without
        assert read.position[row][begins].tolist() == where[[3, 7, 11]].tolist()  # in place of a code to the left
    assert read.image_loss.sum() == batch.image_loss.sum() == 32
    prompt = collate([make_row(0, target=False)], layout.pad_id)
    assert prompt.with_rows() is prompt and prompt.order(2) is None


def test_a_cell_is_told_by_what_was_painted_before_it_alone(staggered, make_row: Callable[..., Row]) -> None:
    """For every cell: its scores change with the codes of earlier steps, and with no other."""
    model, layout = staggered
    batch = collate([make_row(0)], layout.pad_id)
    step = {cell: number for number, wave in enumerate(waves(16, model.config.row_lag)) for cell in wave.painted}
    with torch.no_grad():
        before = model.scores(batch).cells
        for cell in range(16):
            codes = (batch.kind[0] == Kind.IMAGE).nonzero()[:, 0]
            changed = replace(batch, ids=batch.ids.clone())
            changed.ids[0, codes[cell]] = (changed.ids[0, codes[cell]] + 7) % 64
            moved = (model.scores(changed).cells - before).abs().amax(-1) > 1e-6
            assert moved.tolist() == [step[other] > step[cell] for other in range(16)]


def test_a_rows_loss_does_not_depend_on_its_neighbours(staggered, make_row: Callable[..., Row]) -> None:
    model, layout = staggered
    rows = [make_row(0, 3), make_row(1, 0), make_row(2, 1)]
    together = model.loss(collate(rows, layout.pad_id)).image
    alone = [model.loss(collate([row], layout.pad_id)).image for row in rows]
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=0)


# ads


@pytest.fixture
def branches(make_row: Callable[..., Row]) -> Callable[[int, GenerateConfig], list[Row]]:
    """Both rows of a request with so many clicks, or one where there is no guidance."""

    def rows(num_clicks: int, config: GenerateConfig) -> list[Row]:
        row = make_row(0, num_clicks, target=False)
        other = replace(make_row(0, 0, target=False), cutout=row.cutout)
        return [row] if config.guidance == 1 else [row, other]

    return rows


def ask(decoder: Decoder | FastDecoder, requests: list[list[Row]]) -> tuple[list[Made], list[Progress]]:
    rows = [branch for branches in zip(*requests, strict=True) for branch in branches]
    told = list(decoder.run(collate(rows, decoder.layout.pad_id)))
    last = told[-1]
    return [Made(w, tuple(c)) for w, c in zip(last.words, last.codes.tolist(), strict=True)], told


@pytest.mark.parametrize("feature", FEATURES)
def test_every_decoder_makes_the_references_tokens_whoever_is_beside(staggered, branches, feature: str) -> None:
    model, layout = staggered
    config, expected = FEATURES[feature], {}
    for clicks, seed in {request for batch in BATCHES for request in batch}:
        expected[clicks, seed] = Reference(model, layout, config, branches(clicks, config), seed).make(POINTS)
    assert len({made.codes for made in expected.values()}) >= 2
    for batch in BATCHES:
        seeds, requests = [seed for _, seed in batch], [branches(clicks, config) for clicks, _ in batch]
        points = [POINTS] * len(batch)
        for decoder in (
            Decoder(model, layout, config, seeds, points),
            ReleaseShaped(model, layout, config, seeds, points),
            FastDecoder(Engine(model, positions=1), layout, config, seeds, points),
            FastDecoder(Engine(model, positions=12), layout, config, seeds, points),
            FastDecoder(Engine(model, plain_torch=True), layout, config, seeds, points),
        ):
            assert ask(decoder, requests)[0] == [expected[request] for request in batch]


def test_a_picture_without_a_text_stands_where_the_prompt_ends(staggered, branches, monkeypatch) -> None:
    """Step by step, all of it: also what comes after the end of its first row."""
    model, layout = staggered
    engine, seen = Engine(model, plain_torch=True), []
    monkeypatch.setattr(engine, "painter", None)
    step = engine.step

    def listening(slots, x, at, *others):
        seen.append(at.position[0].tolist())
        return step(slots, x, at, *others)

    monkeypatch.setattr(engine, "step", listening)
    decoder = FastDecoder(engine, layout, GUIDED, [1], [POINTS])
    prompt = branches(3, GUIDED)
    assert list(decoder.run(collate(prompt, layout.pad_id), "image"))[-1].done
    begin = len(prompt[0].ids)
    order = waves(16, model.config.row_lag)
    assert seen == [[begin + place for place in wave.places] for wave in order]


def test_a_picture_is_told_of_row_by_row(staggered, branches) -> None:
    model, layout = staggered
    for decoder in (
        Decoder(model, layout, GUIDED, [1], [POINTS]),
        FastDecoder(Engine(model), layout, GUIDED, [1], [POINTS]),
    ):
        (made,), told = ask(decoder, [branches(2, GUIDED)])
        rows = [progress.codes[0].tolist() for progress in told]
        assert {len(row) for row in rows} == {0, 4, 8, 12, 16}
        assert all(tuple(row) == made.codes[: len(row)] for row in rows)
