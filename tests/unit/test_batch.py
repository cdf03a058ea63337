"""Rows of different lengths in one batch: where the padding stands and which positions are learnt."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from uniadgen.data.batch import Batch, Kind, Row, collate
from uniadgen.data.prompt import Shown


@pytest.fixture
def rows(make_row: Callable[..., Row]) -> list[Row]:
    """Histories of 3, 0 and 1 clicks."""
    return [make_row(0, 3), make_row(1, 0), make_row(2, 1)]


@pytest.fixture
def batch(rows: list[Row], layout) -> Batch:
    return collate(rows, layout.pad_id)


def test_sequences_are_padded_on_the_left(rows: list[Row], batch: Batch, layout) -> None:
    for row, ids, kind in zip(rows, batch.ids, batch.kind, strict=True):
        padding = len(ids) - len(row.ids)
        assert ids[padding:].tolist() == row.ids.tolist()
        assert kind[padding:].tolist() == row.kind.tolist()
        assert (ids[:padding] == layout.pad_id).all()
        assert (kind[:padding] == Kind.PAD).all()
    assert (batch.kind[:, 0] == Kind.PAD).sum() == 2  # only the longest row has none


def test_clicks_and_their_words_are_padded_on_the_right(rows: list[Row], batch: Batch) -> None:
    assert batch.clicked.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    for b, row in enumerate(rows):
        for n, words in enumerate(row.click_ids):
            assert batch.click_ids[b, n][batch.click_words[b, n]].tolist() == words.tolist()
            assert batch.click_words[b, n].tolist() == sorted(batch.click_words[b, n].tolist(), reverse=True)
        assert batch.click_codes[b, : len(row.click_ids)].tolist() == row.click_codes.tolist()
    assert not batch.click_words[~batch.clicked].any()


def test_padding_is_not_looked_at(rows: list[Row], batch: Batch) -> None:
    assert batch.attend.sum(-1).tolist() == [len(row.ids) for row in rows]


def test_positions_do_not_count_padding(rows: list[Row], batch: Batch) -> None:
    for row, position, attend in zip(rows, batch.position, batch.attend, strict=True):
        assert position[attend].tolist() == list(range(len(row.ids)))
        assert (position[~attend] == 0).all()


def test_the_text_is_learnt_from_its_first_word_to_its_end(rows: list[Row], batch: Batch, layout) -> None:
    for b, row in enumerate(rows):
        at = batch.text_loss[b].nonzero().flatten()
        assert batch.ids[b, at + 1].tolist() == row.ids[row.kind == Kind.TEXT].tolist()
        assert batch.ids[b, at[0]] == layout.start_text
        assert batch.ids[b, at[-1] + 1] == layout.end_text


def test_the_picture_is_learnt_code_by_code(rows: list[Row], batch: Batch, layout, tiny_config) -> None:
    for b, row in enumerate(rows):
        at = batch.image_loss[b].nonzero().flatten()
        assert len(at) == tiny_config.cells
        assert batch.ids[b, at + 1].tolist() == row.ids[row.kind == Kind.IMAGE].tolist()
        assert batch.ids[b, at[0]] == layout.start_image
        assert batch.kind[b, at[0]] == Kind.PROMPT


def test_nothing_is_learnt_of_the_instruction_and_the_history(batch: Batch) -> None:
    following = batch.kind.roll(-1, dims=1)
    learnt = set(following[batch.text_loss | batch.image_loss].tolist())
    assert learnt == {Kind.TEXT, Kind.IMAGE}
    assert not (batch.text_loss & batch.image_loss).any()


def test_a_batch_without_any_click_has_none(make_row: Callable[..., Row], layout, tiny_config) -> None:
    batch = collate([make_row(0, 0), make_row(1, 0)], layout.pad_id)
    assert batch.click_ids.shape == (2, 0, 0)
    assert batch.click_codes.shape == (2, 0, tiny_config.click_cells)
    assert batch.clicked.shape == (2, 0)


def test_histories_may_be_titles_alone(layout, tiny_config, model) -> None:
    cutout = np.zeros((4, tiny_config.data.image_size, tiny_config.data.image_size), np.float32)
    titles = [Shown("dishwasher safe and light", np.zeros(0, np.int64)), Shown("gift box", np.zeros(0, np.int64))]
    rows = [layout.lay_out("A mug.", ["light"], cutout, clicks) for clicks in ([], titles)]
    batch = collate(rows, layout.pad_id)
    assert batch.click_codes.shape == (2, 2, 0)
    assert (batch.kind == Kind.CLICK_TEXT).sum() == batch.click_words.sum() > 0
    assert not (batch.kind == Kind.CLICK_IMAGE).any()
    with torch.no_grad():
        assert model.read(batch, model.prefer(batch)).isfinite().all()


def test_a_batch_moves_as_a_whole(batch: Batch) -> None:
    moved = batch.to("meta")
    assert all(getattr(moved, name).is_meta for name in vars(batch))


def test_shapes_that_do_not_fit_are_refused(batch: Batch) -> None:
    """The hook of conftest.py is at work: without it a wrong shape would pass."""
    with pytest.raises(TypeError):
        Batch(**{**vars(batch), "cutout": torch.zeros(3, 3, 32, 32)})
