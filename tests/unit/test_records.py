"""The nouns that stages hand on: they refuse what no stage could use."""

import dataclasses

import pytest
from PIL import Image

from uniadgen import Click, Product


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P"])
def test_a_product_picture_must_have_its_own_transparency(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode}, expected RGBA: cut the product out first"):
        Product(Image.new(mode, (8, 8)), "A mug.", ("light",))


@pytest.mark.parametrize(("alpha", "expected"), [(0, "fully transparent"), (255, "no transparent pixel")])
def test_a_product_must_be_seen_before_a_ground_that_is_not(alpha: int, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Product(Image.new("RGBA", (8, 8), (9, 9, 9, alpha)), "A mug.", ("light",))


def test_a_product_must_be_described(product: Product) -> None:
    with pytest.raises(ValueError, match="no description, expected one sentence"):
        Product(product.cutout, "\t", ("light",))


@pytest.mark.parametrize("points", [(), ("",), ("light", "  ")])
def test_a_product_must_have_something_to_say(product: Product, points) -> None:
    with pytest.raises(ValueError, match="expected at least one and none empty"):
        Product(product.cutout, "A mug.", points)


def test_a_click_must_have_a_text(product: Product) -> None:
    with pytest.raises(ValueError, match="a click has an empty text"):
        Click(Image.new("RGB", (8, 8)), " ")


@pytest.mark.parametrize("words", ["caf\udce9", "\ud800"])
def test_words_must_be_unicode(product: Product, words: str) -> None:
    for make in (
        lambda: Product(product.cutout, words, ("light",)),
        lambda: Product(product.cutout, "A mug.", ("light", words)),
        lambda: Click(Image.new("RGB", (8, 8)), words),
    ):
        with pytest.raises(ValueError, match="expected Unicode"):
            make()


def test_records_cannot_be_changed(product: Product) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        product.description = "A lamp."
