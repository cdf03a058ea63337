"""From a product and clicks to an ad: what is shown, what comes back, and that it can be made again."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from uniadgen import Ad, AdGenerator, Click, Example, Product
from uniadgen.data.adworld import picture_of, render_stock, shop_of
from uniadgen.data.cutout import place
from uniadgen.pipeline import ENLARGE, to_pictures, to_pixels


def same(one: Ad, other: Ad) -> bool:
    """The same bytes, and all that was said about them."""
    pictures = one.picture.tobytes() == other.picture.tobytes() and one.painted.tobytes() == other.painted.tobytes()
    return pictures and (one.text, one.seed, one.record) == (other.text, other.seed, other.record)


def test_an_ad_is_larger_than_what_was_painted(generator: AdGenerator, product: Product, clicks) -> None:
    ad = generator.generate(product, clicks)
    side = generator.config.data.image_size
    assert ad.painted.size == (side, side)
    assert ad.picture.size == (ENLARGE * side, ENLARGE * side)


def test_the_products_own_pixels_are_in_the_ad(generator: AdGenerator, product: Product, clicks) -> None:
    ad = generator.generate(product, clicks)
    canvas = np.asarray(place(product.cutout, ad.picture.width))
    opaque = canvas[..., 3] == 255
    assert opaque.sum() > 100
    np.testing.assert_array_equal(np.asarray(ad.picture)[opaque], canvas[opaque][:, :3])


def test_the_same_request_and_seed_give_the_same_ad(generator: AdGenerator, product: Product, clicks) -> None:
    assert same(generator.generate(product, clicks, seed=3), generator.generate(product, clicks, seed=3))


def test_another_seed_gives_another_ad(generator: AdGenerator, product: Product, clicks) -> None:
    one, other = (generator.generate(product, clicks, seed=seed) for seed in (3, 4))
    assert one.painted.tobytes() != other.painted.tobytes()


def test_several_images_are_the_ads_of_following_seeds(generator: AdGenerator, product: Product, clicks) -> None:
    ads = generator.generate(product, clicks, seed=5, num_images=3)
    assert [ad.seed for ad in ads] == [5, 6, 7]
    assert same(ads[2], generator.generate(product, clicks, seed=7))


@pytest.mark.parametrize("num_images", [0, -1])
def test_no_images_cannot_be_asked_for(generator: AdGenerator, product: Product, num_images: int) -> None:
    with pytest.raises(ValueError, match=f"num_images is {num_images}, expected 1 or more"):
        generator.generate(product, num_images=num_images)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_is_none_is_named(generator: AdGenerator, product: Product, seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        generator.generate(product, seed=seed)


def test_no_guidance_below_one(generator: AdGenerator, product: Product) -> None:
    with pytest.raises(ValueError, match=r"generate.guidance is 0.5"):
        generator.generate(product, guidance=0.5)


def test_without_history_an_ad_is_made_too(generator: AdGenerator, product: Product) -> None:
    ad = generator.generate(product)
    assert ad.text
    assert ad.record["shown"] == []


def test_the_record_says_how_to_make_the_ad_again(generator: AdGenerator, product: Product, clicks) -> None:
    record = generator.generate(product, clicks, seed=9, guidance=3.0).record
    assert (record["model"], record["seed"], record["guidance"]) == ("nano", 9, 3.0)
    assert record["shown"] == generator.choose(product, clicks, 9)
    with pytest.raises(TypeError):
        record["seed"] = 1


def test_as_many_clicks_are_shown_as_the_model_has_learnt_with(
    generator: AdGenerator, product: Product, clicks
) -> None:
    for seed in range(20):
        shown = generator.choose(product, clicks, seed)
        assert len(shown) == generator.config.data.num_clicks < len(clicks)


def test_clicks_near_the_product_are_shown_more_often(generator: AdGenerator, product: Product, clicks) -> None:
    shown = np.bincount([i for seed in range(200) for i in generator.choose(product, clicks, seed)], minlength=6)
    near, far = (0, 2, 5), (1, 3, 4)  # titles that name a mug or the kitchen, and others
    assert min(shown[list(near)]) > max(shown[list(far)])


def test_the_stream_ends_with_the_ad(generator: AdGenerator, product: Product, clicks) -> None:
    updates = list(generator.stream(product, clicks, seed=2))
    assert [update.done for update in updates] == [False] * (len(updates) - 1) + [True]
    assert all(update.ad is None for update in updates[:-1])
    assert same(updates[-1].ad, generator.generate(product, clicks, seed=2))


@pytest.fixture
def step_by_step(generator: AdGenerator, monkeypatch) -> AdGenerator:
    """The generator without drafts, of which one step may paint all of so small a picture."""
    monkeypatch.setattr(generator.engine, "positions", 1)
    return generator


def test_the_stream_shows_the_text_grow_and_then_the_picture(
    step_by_step: AdGenerator, product: Product, clicks
) -> None:
    updates = list(step_by_step.stream(product, clicks, seed=2))[:-1]
    writing = [update for update in updates if update.picture is None]
    painting = [update for update in updates if update.picture is not None]
    assert updates == writing + painting
    assert all(after.text.startswith(before.text) for before, after in pairwise(writing))
    assert len({update.text for update in painting}) == 1
    cell = step_by_step.config.model.downsample
    for row, update in enumerate(painting[:3], start=1):
        pixels = np.asarray(update.picture)
        assert (pixels[row * cell :] == 128).all()  # not yet painted: grey
        assert pixels[: row * cell].std() > 0


def test_painted_rows_stay_painted(step_by_step: AdGenerator, product: Product, clicks) -> None:
    """A preview may change at the seam to rows that were still to come; two rows above, it does not."""
    updates = step_by_step.stream(product, clicks, seed=2)
    previews = [np.asarray(u.picture) for u in updates if u.picture and not u.done]
    assert np.abs(previews[-1][:8].astype(int) - previews[-2][:8].astype(int)).max() <= 64


def test_requests_of_a_batch_are_those_made_alone(generator: AdGenerator, product: Product, clicks) -> None:
    examples = [Example(product, clicks), Example(product), Example(product, clicks[:1])]
    together = generator.generate_batch(examples, [1, 2, 3])
    for ad, example, seed in zip(together, examples, (1, 2, 3), strict=True):
        alone = generator.generate_batch([example], [seed])[0]
        assert alone.text == ad.text
        assert alone.painted.tobytes() == ad.painted.tobytes()


def test_every_request_needs_its_seed(generator: AdGenerator, product: Product) -> None:
    with pytest.raises(ValueError, match="zip"):
        generator.generate_batch([Example(product)], [1, 2])


def test_the_branch_of_guidance_leaves_the_history_out(generator: AdGenerator, product: Product, clicks) -> None:
    guided = generator.config.generate
    rows = generator.rows([Example(product, clicks)], [[0, 1]], guided)
    assert [len(row.click_ids) for row in rows] == [2, 0]
    np.testing.assert_array_equal(rows[0].cutout, rows[1].cutout)


def test_without_history_there_is_nothing_to_guide(generator: AdGenerator, product: Product) -> None:
    assert len(generator.rows([Example(product)], [[]], generator.config.generate)) == 1


@pytest.mark.parametrize("words", ["<text_ph>", "<image_ph>", "</text>", "<image>", "<pad>", "[/b]", "{0}"])
def test_any_words_of_a_person_make_an_ad(generator: AdGenerator, product: Product, words: str) -> None:
    strange = Product(product.cutout, f"A mug {words}.", ("kitchen mug",))
    click = Click(Image.new("RGB", (20, 20)), f"title {words}")
    assert generator.generate(strange, [click]).text


def test_a_click_of_any_size_and_mode_can_be_shown(generator: AdGenerator, product: Product) -> None:
    pictures = [Image.new("L", (9, 300)), Image.new("RGBA", (1000, 20)), Image.new("CMYK", (8, 8))]
    ad = generator.generate(product, [Click(picture, "a mug") for picture in pictures])
    assert ad.record["shown"] == [0, 1, 2]


def test_pictures_become_pixels_and_back() -> None:
    pictures = np.random.default_rng(0).integers(256, size=(2, 6, 5, 3), dtype=np.uint8)
    pixels = to_pixels(pictures)
    assert pixels.shape == (2, 3, 6, 5)
    assert pixels.min() >= -1 and pixels.max() <= 1
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in to_pictures(pixels)]), pictures)


def test_pixels_out_of_range_are_cut() -> None:
    assert np.asarray(to_pictures(torch.tensor([-3.0, 3.0, 0.0]).view(1, 3, 1, 1))[0]).tolist() == [[[0, 255, 128]]]


def test_clicks_are_coded_when_served_as_they_were_in_training(generator: AdGenerator, tiny_run, tiny_config) -> None:
    shop = shop_of(tiny_config.world)
    stock = render_stock(tiny_config.world, tiny_run.parent / "stock", tiny_config.data.image_size, 1)
    (codes,) = (tiny_run.parent / "stock").glob("codes-*.npz")
    with np.load(codes) as arrays:
        trained = arrays["clicks"]
    numbers = range(0, len(stock.picture_ids), 4)
    pictures = [picture_of(shop, int(stock.picture_ids[i]), tiny_config.data.image_size).picture for i in numbers]
    served = generator.encode_clicks([Click(Image.fromarray(picture), "a title") for picture in pictures])
    same = np.stack([shown.codes for shown in served]) == trained[numbers]
    assert same.mean() > 0.8  # weights are saved in half precision, in which near ties may fall the other way


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="nanoo: no such folder of weights, and no shipped model"):
        AdGenerator.from_pretrained("nanoo")


def test_no_requests_are_refused(generator: AdGenerator) -> None:
    with pytest.raises(ValueError, match="got no requests, expected at least one"):
        generator.generate_batch([], [])
