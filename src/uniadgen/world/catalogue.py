"""The shop's catalogue: products, pictures and creatives, each found from its number in constant time.

Numbers nest: product = family x variant, picture = product x `pictures_per_product`, creative = picture x
text, where a text is a kind of selling point x a manner. In each department every 480 pictures in a row show
each of the 480 styles once, in a shuffled order, so the pictures of a wanted style are looked up, never
searched for.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uniadgen.world import words
from uniadgen.world.counters import What, bits, generator
from uniadgen.world.products import DEPARTMENTS, FAMILIES, Variant
from uniadgen.world.scenes import NUM_STYLES, Style
from uniadgen.world.words import KINDS, LANGUAGES, MANNERS

Ids = NDArray[np.int64]

NUM_TEXTS: Final = len(KINDS) * len(MANNERS)


def text_id(kind: str, manner: str) -> int:
    """The number of a text within its picture's texts; raises `ValueError` for an unknown kind or manner."""
    if kind not in KINDS or manner not in MANNERS:
        raise ValueError(f"got {kind!r} and {manner!r}, expected one of {KINDS} and of {MANNERS}, use these")
    return KINDS.index(kind) * len(MANNERS) + MANNERS.index(manner)


@dataclass(frozen=True)
class CatalogueProduct:
    """One product of the shop; its solid and its words are made when first asked for."""

    product_id: int
    family: str
    department: str
    seed: int = field(repr=False)

    @cached_property
    def variant(self) -> Variant:
        """The product's solid, with the words for its colour and finish."""
        return FAMILIES[self.family].build(generator(self.seed, What.VARIANT, self.product_id))

    @cached_property
    def _descriptions(self) -> dict[str, str]:
        colour, finish = self.variant.colour, self.variant.finish
        return {
            language: words.description(
                self.family,
                self.department,
                colour,
                finish,
                language,
                generator(self.seed, What.DESCRIPTION, self.product_id),
            )
            for language in LANGUAGES
        }

    @cached_property
    def _selling_points(self) -> dict[str, tuple[str, ...]]:
        return {
            language: words.selling_points(
                self.family,
                self.department,
                language,
                generator(self.seed, What.SELLING_POINTS, self.product_id),
            )
            for language in LANGUAGES
        }

    def description(self, language: str) -> str:
        """The seller's sentence; raises `ValueError` for an unknown language."""
        return self._descriptions[_language(language)]

    def selling_points(self, language: str) -> tuple[str, ...]:
        """Eleven phrases, the short name first; raises `ValueError` for an unknown language."""
        return self._selling_points[_language(language)]


@dataclass(frozen=True)
class Creative:
    """One advertisement that the shop can show: a product's picture in a style, with one of its texts."""

    creative_id: int
    picture_id: int
    product: CatalogueProduct = field(repr=False)
    style: Style
    kind: str
    manner: str

    @property
    def product_id(self) -> int:
        return self.product.product_id

    def text(self, language: str) -> str:
        """The ad text; raises `ValueError` for an unknown language."""
        rng = generator(self.product.seed, What.TEXT, self.creative_id)
        return words.text(self.product.selling_points(language), self.kind, self.manner, language, rng)


class Catalogue:
    """All products, pictures and creatives of a shop, derived from its seed.

    Raises `ValueError` unless every department's pictures come in whole blocks of 480 (one of each style): 4
    families of 24 variants with 20 pictures give 4 blocks.
    """

    def __init__(self, seed: int, *, num_variants: int = 24, pictures_per_product: int = 20) -> None:
        if not 0 <= seed < 2**63:
            raise ValueError(f"got seed {seed}, expected 0 <= seed < 2**63, choose another")
        if num_variants < 1 or pictures_per_product < 1:
            raise ValueError(
                f"got {num_variants} variants and {pictures_per_product} pictures per product, "
                "expected at least 1 of each, raise them"
            )
        self.seed = seed
        self.num_variants = num_variants
        self.pictures_per_product = pictures_per_product
        # Products are numbered department by department, so a department's pictures lie in one range.
        order = sorted(FAMILIES.values(), key=lambda family: DEPARTMENTS.index(family.department))
        self.families = tuple(family.name for family in order)
        sizes = [len(list(group)) for _, group in groupby(order, key=lambda family: family.department)]
        self._num_blocks = np.array([self._blocks(size) for size in sizes], dtype=np.uint64)
        self._first_block = np.cumsum([0, *self._num_blocks[:-1].tolist()])
        self._style_of, self._picture_of = self._styles()
        self._products: dict[int, CatalogueProduct] = {}  # kept, so that their words are made once

    def _blocks(self, num_families: int) -> int:
        pictures = num_families * self.num_variants * self.pictures_per_product
        if pictures % NUM_STYLES:
            raise ValueError(
                f"got {num_families} families x {self.num_variants} variants x {self.pictures_per_product} "
                f"pictures = {pictures}, expected a multiple of {NUM_STYLES}, change one of them"
            )
        return pictures // NUM_STYLES

    def _styles(self) -> tuple[NDArray[np.int16], Ids]:
        """Each picture's style, and for each block and style the picture: a permutation and its inverse."""
        shuffled = bits(self.seed, What.STYLES, np.arange(self.num_pictures)).reshape(-1, NUM_STYLES)
        styles = np.argsort(shuffled, axis=1, kind="stable")
        starts = np.arange(len(styles))[:, None] * NUM_STYLES
        return styles.ravel().astype(np.int16), np.argsort(styles, axis=1) + starts

    @property
    def num_products(self) -> int:
        return len(self.families) * self.num_variants

    @property
    def num_pictures(self) -> int:
        return self.num_products * self.pictures_per_product

    @property
    def num_creatives(self) -> int:
        return self.num_pictures * NUM_TEXTS

    def product(self, product_id: int) -> CatalogueProduct:
        """Raises `ValueError` when there is no such product."""
        _within("product", product_id, self.num_products)
        if product_id not in self._products:
            family = self.families[product_id // self.num_variants]
            department = FAMILIES[family].department
            self._products[product_id] = CatalogueProduct(product_id, family, department, self.seed)
        return self._products[product_id]

    def creative(self, creative_id: int) -> Creative:
        """Raises `ValueError` when there is no such creative."""
        _within("creative", creative_id, self.num_creatives)
        picture_id, text = divmod(creative_id, NUM_TEXTS)
        return Creative(
            creative_id,
            picture_id,
            self.product(picture_id // self.pictures_per_product),
            Style.from_index(int(self._style_of[picture_id])),
            KINDS[text // len(MANNERS)],
            MANNERS[text % len(MANNERS)],
        )

    def creative_id(self, picture_id: int, kind: str, manner: str) -> int:
        """The creative that shows this picture with this text."""
        _within("picture", picture_id, self.num_pictures)
        return picture_id * NUM_TEXTS + text_id(kind, manner)

    def style_indices(self, picture_ids: Ids) -> Ids:
        """The style (as its index) of each picture; any shape."""
        return self._style_of[picture_ids].astype(np.int64)

    def product_ids(self, picture_ids: Ids) -> Ids:
        """The product of each picture; any shape."""
        return picture_ids // self.pictures_per_product

    def pictures_of(self, department: str, style_indices: int | Ids) -> Ids:
        """A department's pictures in a style, one of each block: (..., blocks) for styles of shape (...)."""
        place = department_index(department)
        first, count = int(self._first_block[place]), int(self._num_blocks[place])
        return np.moveaxis(self._picture_of[first : first + count, style_indices], 0, -1)

    def scene_generator(self, picture_id: int) -> np.random.Generator:
        """What draws the small accidents of one picture's scene and camera, always alike."""
        _within("picture", picture_id, self.num_pictures)
        return generator(self.seed, What.SCENE, picture_id)


def department_index(department: str) -> int:
    """The place of a department in `DEPARTMENTS`; raises `ValueError` when there is none of that name."""
    if department not in DEPARTMENTS:
        known = ", ".join(DEPARTMENTS)
        raise ValueError(f"got department {department!r}, expected one of {known}, use one of these")
    return DEPARTMENTS.index(department)


def _language(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"got language {language!r}, expected one of {LANGUAGES}, use one of these")
    return language


def _within(what: str, number: int, limit: int) -> None:
    if not 0 <= number < limit:
        raise ValueError(f"got {what} {number}, expected 0 <= {what} < {limit}, choose another")
