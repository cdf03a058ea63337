"""Every family builds products that fit the stage, look different, and are named in the declared words."""

import numpy as np
import pytest

from uniadgen.world.products import COLOURS, DEPARTMENTS, FAMILIES, FINISHES, Variant
from uniadgen.world.solids import bounds

NUM_VARIANTS = 20


def variants(family: str) -> list[Variant]:
    return [FAMILIES[family].build(np.random.default_rng(seed)) for seed in range(NUM_VARIANTS)]


def test_every_department_has_four_families_or_more() -> None:
    assert len(FAMILIES) >= 24
    assert len(DEPARTMENTS) >= 6
    for department in DEPARTMENTS:
        assert sum(family.department == department for family in FAMILIES.values()) >= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_products_fill_the_box_and_stay_inside(family: str) -> None:
    for variant in variants(family):
        low, high = np.array(bounds(variant.solid))
        box = np.array([1.2, 1.0, 1.0])
        np.testing.assert_allclose(low[1], 0.0, atol=1e-9)
        np.testing.assert_allclose((low + high)[[0, 2]], 0.0, atol=1e-9)
        # Full in width or height; round, flat things like bowls and hats are full in depth first.
        assert (high - low <= box + 1e-9).all()
        assert np.isclose(high - low, box).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_generator_decides_everything(family: str) -> None:
    once, again = variants(family), variants(family)
    assert once == again
    assert len(set(once)) == NUM_VARIANTS


@pytest.mark.parametrize("family", FAMILIES)
def test_words_come_from_the_vocabularies_and_parts_stay_few(family: str) -> None:
    several = variants(family)
    assert {variant.colour for variant in several} <= set(COLOURS)
    assert {variant.finish for variant in several} <= set(FINISHES)
    assert len({variant.colour for variant in several}) >= 5
    assert max(len(variant.solid) for variant in several) <= 24


def test_unknown_words_are_refused() -> None:
    solid = variants("mug")[0].solid
    with pytest.raises(ValueError, match="expected one of red"):
        Variant(solid=solid, colour="beige", finish="ceramic")
    with pytest.raises(ValueError, match="expected one of ceramic"):
        Variant(solid=solid, colour="red", finish="paper")
