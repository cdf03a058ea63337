"""A contact sheet: some products, one a row, each photographed in several styles, one a column."""

import numpy as np
from PIL import Image

from uniadgen.world.products import FAMILIES
from uniadgen.world.render import render
from uniadgen.world.scenes import NUM_STYLES, Style, scene


def contact_sheet(rows: int = 4, columns: int = 6, size: int = 144, seed: int = 0) -> Image.Image:
    """Products x styles as one RGB picture of (columns * size) x (rows * size) pixels, the same for the same seed.

    Families and styles do not repeat before all have been shown. Raises ValueError for counts below 1.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"got {rows} rows and {columns} columns, expected 1 or more of each, ask for more")
    rng = np.random.default_rng(seed)
    families = [list(FAMILIES.values())[i] for i in _shuffled(len(FAMILIES), rows, rng)]
    styles = [Style.from_index(int(i)) for i in _shuffled(NUM_STYLES, columns, rng)]
    sheet = Image.new("RGB", (columns * size, rows * size))
    for row, family in enumerate(families):
        product = family.build(np.random.default_rng([seed, row])).solid
        for column, style in enumerate(styles):
            picture = render(product, scene(style, np.random.default_rng([seed, row, column])), size).picture
            sheet.paste(Image.fromarray(picture), (column * size, row * size))
    return sheet


def _shuffled(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    rounds = [rng.permutation(count) for _ in range(-(-wanted // count))]
    return [int(i) for i in np.concatenate(rounds)[:wanted]]
