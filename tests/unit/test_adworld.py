"""AdWorld as training data: examples of visits, the stock of pictures, and rows that are pure functions of numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from uniadgen.config import override
from uniadgen.data.adworld import all_texts, example_of, needed_pictures, render_stock, shop_of
from uniadgen.data.batch import Kind
from uniadgen.data.rows import WINDOW, Rows, Share
from uniadgen.model import weights
from uniadgen.train.nano import AdWorldSource, PictureBatches
from uniadgen.train.prefetch import made_ahead
from uniadgen.train.words import start, together


@pytest.fixture
def rows(tiny_run, tiny_config) -> Rows:
    """The training rows of the tiny run."""
    stock = render_stock(tiny_config.world, tiny_run.parent / "stock", tiny_config.data.image_size, 1)
    (codes,) = (tiny_run.parent / "stock").glob("codes-*.npz")
    with np.load(codes) as arrays:
        codes = arrays["targets"], arrays["clicks"]
    _, layout, _ = weights.load(tiny_run)
    return Rows(tiny_config, layout, AdWorldSource(tiny_config, stock, *codes))


def test_a_visit_becomes_a_request_and_the_click_that_happened(rendering: None, tiny_config) -> None:
    shop = shop_of(tiny_config.world)
    visit = shop.visit(0)
    example = example_of(shop, visit, 16, 48)
    language = visit.shopper.language
    assert example.product.cutout.size == (48, 48)
    assert example.product.description == shop.creative(visit.target).product.description(language)
    assert example.target.text == shop.creative(visit.target).text(language)
    assert [click.text for click in example.clicks] == [
        shop.creative(i).text(language) for i in visit.history.creative_ids
    ]
    assert all(click.picture.size == (16, 16) for click in (*example.clicks, example.target))


def test_the_held_out_shop_is_another(tiny_config) -> None:
    shops = shop_of(tiny_config.world), shop_of(tiny_config.world, held_out=True)
    one, other = (shop.product(0).variant.solid for shop in shops)
    assert one != other


def test_the_tokenizer_learns_from_all_that_sellers_say(tiny_config) -> None:
    texts = set(all_texts(shop_of(tiny_config.world)))
    shop = shop_of(tiny_config.world)
    for number in range(20):
        visit = shop.visit(number)
        product = shop.creative(visit.target).product
        assert product.description(visit.shopper.language) in texts
        assert set(product.selling_points(visit.shopper.language)) <= texts
        assert any(text.startswith(shop.creative(visit.target).text(visit.shopper.language)[:3]) for text in texts)


def test_the_stock_holds_what_the_shoppers_clicked(tiny_config) -> None:
    shop, world = shop_of(tiny_config.world), tiny_config.world
    needed = set(needed_pictures(world).tolist())
    visits = [shop.visit(i) for i in range(world.num_shoppers)]
    assert {shop.creative(c).picture_id for v in visits for c in (v.target, *v.history.creative_ids)} == needed
    assert len(needed_pictures(replace(world, num_shoppers=0))) == shop.num_pictures


def test_the_stock_is_the_shops_pictures(rows: Rows, tiny_config) -> None:
    from uniadgen.data.adworld import cutout_of, picture_of

    stock, side = rows.source.stock, tiny_config.data.image_size
    for place in (0, len(stock.picture_ids) - 1):
        picture_id = int(stock.picture_ids[place])
        assert stock.row(picture_id) == place
        np.testing.assert_array_equal(stock.pictures[place], picture_of(rows.source.shop, picture_id, side).picture)
        np.testing.assert_array_equal(stock.cutouts[place], cutout_of(rows.source.shop, picture_id, side))


def test_a_picture_that_is_not_in_stock_is_not_taken_for_another(rows: Rows) -> None:
    stranger = int(np.setdiff1d(np.arange(rows.source.shop.num_pictures), rows.source.stock.picture_ids)[0])
    with pytest.raises((ValueError, AssertionError, KeyError)):
        rows.source.stock.row(stranger)


def test_a_row_is_a_pure_function_of_its_number(rows: Rows) -> None:
    for number in (0, 7, 10**9):
        one, again = rows.row(number), rows.row(number)
        np.testing.assert_array_equal(one.ids, again.ids)
        np.testing.assert_array_equal(one.cutout, again.cutout)


def test_shoppers_come_round_but_templates_and_clicks_are_drawn_anew(rows: Rows, tiny_config) -> None:
    again = rows.row(tiny_config.world.num_shoppers)
    assert rows.source.sample(0) == rows.source.sample(tiny_config.world.num_shoppers)
    assert again.ids.tolist() != rows.row(0).ids.tolist()


def test_batches_are_pure_functions_of_the_step(rows: Rows) -> None:
    later = rows.batches(WINDOW + 3)[0]
    first = rows.batches(2)[0]
    assert later.ids.equal(rows.batches(WINDOW + 3)[0].ids)
    assert first.ids.equal(rows.batches(2)[0].ids)


def test_the_batches_of_a_window_hold_each_of_its_rows_once(rows: Rows, tiny_config) -> None:
    size = tiny_config.train.batch_size
    batches = [rows.batches(WINDOW + step)[0] for step in range(WINDOW)]
    dealt = [ids[attend].tolist() for batch in batches for ids, attend in zip(batch.ids, batch.attend, strict=True)]
    assert sorted(dealt) == sorted(rows.row(WINDOW * size + i).ids.tolist() for i in range(WINDOW * size))


def test_rows_of_a_batch_have_similar_lengths(rows: Rows) -> None:
    waste = [(~rows.batches(step)[0].attend).float().mean().item() for step in range(WINDOW)]
    assert np.mean(waste) < 0.1


def test_processes_share_out_every_step(rows: Rows, tiny_config) -> None:
    shares = [Rows(tiny_config, rows.layout, rows.source, Share(rank, 2)) for rank in range(2)]
    for step in (0, WINDOW + 1):
        assert sorted(n for share in shares for n in share.numbers(step)) == sorted(rows.numbers(step))


def test_a_step_comes_in_batches_of_rows_at_once(rows: Rows, tiny_config) -> None:
    some = Rows(override(tiny_config, {"train.rows_at_once": 3}), rows.layout, rows.source)
    assert [len(batch.ids) for batch in some.batches(1)] == [3, 1]


def test_rows_are_the_same_whoever_makes_them(rows: Rows, tiny_config) -> None:
    some = Rows(override(tiny_config, {"train.rows_at_once": 3}), rows.layout, rows.source)
    steps = range(3, 2 * WINDOW + 1)
    for here, there in zip(map(some.batches, steps), made_ahead(some.batches, steps, 2, WINDOW), strict=True):
        for one, other in zip(here, there, strict=True):
            assert all(torch.equal(tensor, vars(other)[name]) for name, tensor in vars(one).items())


def test_processes_that_do_not_divide_a_step_are_refused(rows: Rows, tiny_config) -> None:
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        Rows(tiny_config, rows.layout, rows.source, Share(0, 3))


def test_a_word_preference_begins_with_what_shoppers_click_together(rows: Rows, model) -> None:
    preference = model.word_preference
    start(preference, rows)
    once = preference.words.weight.clone()
    start(preference, rows)
    assert torch.equal(once, preference.words.weight) and once.isfinite().all()
    assert 5 < (once.norm(dim=1) > 0.5).sum() < len(once)
    model.loss(rows.batches(0)[0], torch.Generator().manual_seed(0)).total.backward()
    assert all(p.grad.abs().max() > 0 for p in preference.parameters())


def test_mutual_information_finds_who_stands_with_whom() -> None:
    rng = np.random.default_rng(0)
    kinds = [np.arange(1, 11), np.arange(11, 21)]  # two kinds of words; a shopper clicks one kind
    words = together((rng.choice(kinds[i % 2], 6) for i in range(200)), 25, 12)
    met = np.linalg.norm(words, axis=1) > 0.5
    assert met.nonzero()[0].tolist() == list(range(1, 21))
    alike = words[1:21] @ words[1:21].T
    same = np.equal.outer(np.arange(20) < 10, np.arange(20) < 10)
    assert alike[same].min() > 0.5 and alike[~same].max() < 0.2


def test_the_answer_of_a_row_is_what_was_clicked(rows: Rows, tiny_config) -> None:
    for number in range(6):
        row, visit = rows.row(number), rows.source.shop.visit(number % tiny_config.world.num_shoppers)
        words = row.ids[row.kind == Kind.TEXT][:-1]
        target = rows.source.shop.creative(visit.target)
        assert rows.layout.tokenizer.decode(words.tolist()) == target.text(visit.shopper.language)
        place = rows.source.stock.row(target.picture_id)
        assert row.ids[row.kind == Kind.IMAGE].tolist() == rows.source.targets[place].tolist()


def test_the_clicks_of_a_row_are_the_shoppers_in_their_order(rows: Rows, tiny_config) -> None:
    encode, most = rows.layout.tokenizer.encode, tiny_config.data.click_words
    for number in range(6):
        row, visit = rows.row(number), rows.source.shop.visit(number % tiny_config.world.num_shoppers)
        history = iter(rows.source.shop.creative(i) for i in visit.history.creative_ids)
        for ids, codes in zip(row.click_ids, row.click_codes, strict=True):
            # The iterator moves on to the click shown, and never back.
            assert any(
                encode(creative.text(visit.shopper.language), add_special_tokens=False)[:most] == ids.tolist()
                and codes.tolist() == rows.source.clicks[rows.source.stock.row(creative.picture_id)].tolist()
                for creative in history
            )


def test_a_share_of_rows_has_no_history(rows: Rows, tiny_config) -> None:
    without = [len(rows.row(number).click_ids) == 0 for number in range(300)]
    assert abs(np.mean(without) - tiny_config.data.history_dropout) < 0.07
    assert not rows.row(0, with_history=False).click_ids


def test_every_fourth_batch_of_the_vq_has_pictures_as_small_as_clicks(rows: Rows, tiny_config) -> None:
    batches = PictureBatches(rows.source.stock.pictures, tiny_config)
    large, small = tiny_config.data.image_size, tiny_config.data.click_size
    assert [batches.batch(step).shape[-1] for step in range(8)] == [large, large, large, small] * 2
    assert batches.batch(5).equal(batches.batch(5))
    assert not batches.batch(5).equal(batches.batch(6))


def test_a_stock_that_was_stopped_half_way_is_finished(rendering: None, tiny_config, tmp_path) -> None:
    world, advanced = override(tiny_config, {"world.num_shoppers": 1}).world, []
    whole = render_stock(world, tmp_path, 16, 1)
    pictures = np.array(whole.pictures)
    for mark in tmp_path.glob("done-*"):
        mark.unlink()
    np.load(tmp_path / "pictures.npy", mmap_mode="r+")[:] = 0
    again = render_stock(world, tmp_path, 16, 1, advanced.append)
    np.testing.assert_array_equal(again.pictures, pictures)
    assert sum(advanced) == len(whole.picture_ids)
    advanced.clear()
    render_stock(world, tmp_path, 16, 1, advanced.append)
    assert advanced == [len(whole.picture_ids)]
