"""Options that change what comes out: off, nothing changes; on, every decoder makes the same of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from uniadgen.config import GenerateConfig
from uniadgen.data.batch import Row, collate
from uniadgen.data.prompt import Layout
from uniadgen.engine.engine import Engine
from uniadgen.engine.loop import Decoder, Progress
from uniadgen.engine.reference import Made, Reference
from uniadgen.engine.ticket import Bell
from uniadgen.engine.together import FastDecoder

POINTS = ("kitchen mug", "dishwasher safe")
PLAIN = GenerateConfig(guidance=12.0, text_top_k=0, image_top_k=0, max_words=5)
OPTIONS = {
    "guided to the middle": replace(PLAIN, guidance_until=0.45),
    "a picture without guidance": replace(PLAIN, guidance_until=0.0),
    "the product in both branches": replace(PLAIN, guidance_until=0.3, leave_out="product"),
    "product skipped": replace(PLAIN, skip_product=True),
    "both": replace(PLAIN, skip_product=True, guidance_until=0.6),
}
# (clicks, seed) of every request of a batch; the last batch are candidates of one request.
BATCHES = (((3, 1),), ((3, 1), (0, 2), (1, 3)), ((3, 1), (3, 4)))
INSIDE = (5, 6, 9, 10)  # the cells, of 4 x 4, that the product covers


@pytest.fixture
def branches(make_row: Callable[..., Row]) -> Callable[[int], list[Row]]:
    """Both rows of a request with so many clicks; its product covers the four cells in the middle."""

    def rows(num_clicks: int) -> list[Row]:
        row = make_row(0, num_clicks, target=False)
        cutout = row.cutout * 0
        cutout[:, 8:24, 8:24] = row.cutout[:, 8:24, 8:24] / row.cutout[3, 8:24, 8:24]  # opaque
        return [replace(row, cutout=cutout), replace(make_row(0, 0, target=False), cutout=cutout)]

    return rows


def ask(decoder: Decoder | FastDecoder, requests: list[list[Row]], modality: str | None = None) -> Progress:
    rows = [branch for branches in zip(*requests, strict=True) for branch in branches]
    *_, last = decoder.run(collate(rows, decoder.layout.pad_id), modality)
    return last


def with_other(rows: list[Row], config: GenerateConfig) -> list[Row]:
    """Where the product is what is left out, the branches differ in their control alone."""
    return [rows[0], rows[0]] if config.leave_out == "product" else rows


@pytest.mark.parametrize(
    ("option", "modality"), [*((option, "image+text") for option in OPTIONS), ("a picture without guidance", "image")]
)
def test_every_decoder_makes_the_references_tokens(model, layout: Layout, branches, option: str, modality: str) -> None:
    config, expected = OPTIONS[option], {}
    for clicks, seed in {request for batch in BATCHES for request in batch}:
        rows = with_other(branches(clicks), config)
        expected[clicks, seed] = Reference(model, layout, config, rows, seed).make(POINTS, modality)
    plain = Reference(model, layout, replace(PLAIN, leave_out=config.leave_out), with_other(branches(3), config), 1)
    assert plain.make(POINTS, modality).codes != expected[3, 1].codes
    for batch in BATCHES:
        seeds, points = [seed for _, seed in batch], [POINTS] * len(batch)
        requests = [with_other(branches(clicks), config) for clicks, _ in batch]
        for decoder in (
            Decoder(model, layout, config, seeds, points),
            FastDecoder(Engine(model, positions=1), layout, config, seeds, points),
            FastDecoder(Engine(model, positions=12), layout, config, seeds, points),
            FastDecoder(Engine(model, positions=1, plain_torch=True), layout, config, seeds, points),
            FastDecoder(Engine(model, positions=12, plain_torch=True), layout, config, seeds, points),
        ):
            last = ask(decoder, requests, modality)
            made = [Made(w, tuple(c)) for w, c in zip(last.words, last.codes.tolist(), strict=True)]
            assert made == [expected[request] for request in batch]


# late guidance


def rows_of_steps(decoder: FastDecoder) -> list[tuple[int, int]]:
    """Listens: whenever it goes on, the first ad's cell and how many rows there are."""
    seen, scheduler = [], decoder.scheduler

    def listening(go_on):
        def heard(*given):
            seen.append((scheduler.ads[0].cell, sum(len(group.owners) for group in scheduler.seats.groups.values())))
            return go_on(*given)

        return heard

    runner = scheduler.runner
    runner.step, runner.paint = listening(runner.step), listening(runner.paint)
    return seen


@pytest.mark.parametrize("positions", [1, 8])
def test_the_row_without_the_history_leaves_where_guidance_ends(
    model, layout: Layout, branches, positions: int
) -> None:
    config = replace(PLAIN, guidance_until=0.45)  # of 16 cells: eight are guided
    decoder = FastDecoder(Engine(model, positions), layout, config, [1], [POINTS])
    seen = rows_of_steps(decoder)
    ask(decoder, [branches(3)])
    assert {rows for cell, rows in seen if cell < 8} == {2}
    assert {rows for cell, rows in seen if cell >= 8} == {1}
    assert min(cell for cell, rows in seen if rows == 1) == 8


def test_cells_before_are_those_of_full_guidance(model, layout: Layout, branches) -> None:
    made = [
        ask(FastDecoder(Engine(model), layout, config, [1], [POINTS]), [branches(3)])
        for config in (PLAIN, replace(PLAIN, guidance_until=0.5))
    ]
    assert made[0].words == made[1].words
    codes = [progress.codes[0] for progress in made]
    assert torch.equal(codes[0][:8], codes[1][:8])
    assert (codes[0] != codes[1]).any()


def test_slots_are_free_again_for_who_comes_next(model, layout: Layout, branches) -> None:
    """Of two that share the steps, the second joins when the first one's other branch has left."""
    config = replace(PLAIN, guidance_until=0.25)
    decoder = FastDecoder(Engine(model, positions=1), layout, config, [1, 4], [POINTS] * 2)
    scheduler = decoder.scheduler
    expected = [Reference(model, layout, config, branches(3), seed).make(POINTS, "image") for seed in (1, 4)]
    batch = collate(branches(3), layout.pad_id)
    tickets = scheduler.submit(batch, decoder.generators[:1], [POINTS], "image")
    for _ in range(6):
        scheduler.step()
    tickets += scheduler.submit(batch, decoder.generators[1:], [POINTS], "image")
    while scheduler.step():
        pass
    made = [tuple(ticket.latest.codes[0].tolist()) for ticket in tickets]
    assert made == [one.codes for one in expected]
    assert not any(group.owners for group in scheduler.seats.groups.values())


# product-aware skipping


def cutout_of(branches) -> torch.Tensor:
    return torch.from_numpy(branches(3)[0].cutout)


def test_cells_wholly_in_the_product_are_known(model, branches) -> None:
    known = model.known_cells(cutout_of(branches), 0)
    assert tuple((known >= 0).nonzero().flatten().tolist()) == INSIDE
    assert (model.known_cells(cutout_of(branches), 1) == -1).all()  # nothing of it is further inside


def test_a_margin_is_counted_from_the_products_outline_not_from_the_pictures(model, branches) -> None:
    cutout = cutout_of(branches) * 0 + 0.5
    cutout[3] = 1
    assert (model.known_cells(cutout, 1) >= 0).all()
    cutout[3, 0, 0] = 0  # one pixel is seen through: its cell is out, and, with a margin, those beside it
    cutout[3, :8, :8] = 0.5
    left = model.known_cells(cutout, 0) < 0
    assert left.nonzero().flatten().tolist() == [0]
    assert (model.known_cells(cutout, 1) < 0).nonzero().flatten().tolist() == [0, 1, 4, 5]


def test_known_codes_are_those_of_the_products_picture(model, branches) -> None:
    cutout = cutout_of(branches)
    mean = cutout[:3, 8:24, 8:24].mean((1, 2))
    picture = torch.where(cutout[3:] > 0, cutout[:3], mean[:, None, None])
    codes = model.encode_pictures(picture[None] * 2 - 1)[0]
    known = model.known_cells(cutout, 0)
    assert torch.equal(known[list(INSIDE)], codes[list(INSIDE)])


def test_cells_inside_have_the_products_codes_in_fewer_steps(model, layout: Layout, branches, monkeypatch) -> None:
    monkeypatch.setattr(Bell, "quiet", Bell.ring)  # it paints a step at a time
    made, steps = [], []
    for config in (PLAIN, replace(PLAIN, skip_product=True)):
        decoder = FastDecoder(Engine(model, positions=4), layout, config, [1], [POINTS])
        seen = rows_of_steps(decoder)
        made.append(ask(decoder, [branches(3)], "image").codes[0])
        steps.append(len(seen))
    known = model.known_cells(cutout_of(branches), 0)
    assert torch.equal(made[1][list(INSIDE)], known[list(INSIDE)])
    assert torch.equal(made[0][: INSIDE[0]], made[1][: INSIDE[0]])
    assert steps[1] < steps[0]


def test_a_product_is_encoded_once_for_its_candidates(model, layout: Layout, branches, monkeypatch) -> None:
    calls, known_cells = [], model.known_cells
    monkeypatch.setattr(model, "known_cells", lambda *args: calls.append(args) or known_cells(*args))
    config = replace(PLAIN, skip_product=True)
    for modality, number in (("text", 0), ("image", 1)):
        ask(FastDecoder(Engine(model), layout, config, range(3), [POINTS] * 3), [branches(3)] * 3, modality)
        assert len(calls) == number
