"""AdWorld's ground truth: which style a picture is in, and which selling points a text uses, in which manner."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uniadgen.data import cutout
from uniadgen.data.adworld import picture_of, shop_of
from uniadgen.evaluate.measures import Setting, Values
from uniadgen.evaluate.requests import Request
from uniadgen.records import Ad
from uniadgen.train.log import progress_bar
from uniadgen.world.scenes import NUM_STYLES, Style
from uniadgen.world.shoppers import Shop, Taste
from uniadgen.world.words import KIND_OF, parse

JUDGE_SIDE = 48  # px at which backgrounds are compared: small camera jitter no longer matters
JUDGE_JITTERS = 2  # renderings of every style that the judge knows


class StyleJudge:
    """Tells the style of a background: that of the nearest rendering, the product's region left out of both."""

    def __init__(self, shop: Shop) -> None:
        self.pictures, self.styles, masks = [], [], []
        with progress_bar("judge", NUM_STYLES * JUDGE_JITTERS) as bar:
            for picture_id in self._one_of_each_style(shop):
                rendering = picture_of(shop, picture_id, JUDGE_SIDE)
                self.pictures.append(rendering.picture)
                masks.append(rendering.alpha > 0)
                self.styles.append(Style.from_index(int(shop.style_indices(np.array(picture_id)))))
                bar.advance()
        self.known = np.stack(self.pictures).astype(np.float32)
        self.ground = ~np.stack(masks)

    @staticmethod
    def _one_of_each_style(shop: Shop) -> list[int]:
        """Pictures of other departments in turn, each style `JUDGE_JITTERS` times: whole blocks of 480."""
        blocks = shop.num_pictures // NUM_STYLES
        chosen = [(2 * jitter + 1) * blocks // (2 * JUDGE_JITTERS) for jitter in range(JUDGE_JITTERS)]
        return [picture for block in chosen for picture in range(block * NUM_STYLES, (block + 1) * NUM_STYLES)]

    def style(self, picture: Image.Image, product: NDArray[np.uint8]) -> Style:
        """The style of a picture; `product` is the alpha of the product in it, of any size."""
        size = (JUDGE_SIDE, JUDGE_SIDE)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BOX), np.float32)
        covered = np.asarray(Image.fromarray(product).resize(size, Image.Resampling.BOX)) > 0
        seen = self.ground & ~covered
        error = np.abs(self.known - pixels).mean(-1)
        return self.styles[int(((error * seen).sum((1, 2)) / seen.sum((1, 2))).argmin())]


class StyleScorer:
    """Whether palette, layout and lighting of the painted picture are those that the shopper likes."""

    name = "style"
    needs = frozenset({"picture", "taste"})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @cached_property
    def judge(self) -> StyleJudge:
        """Rendered when it is first asked."""
        assert self.setting.world is not None, "where tastes are known there is a world"
        return StyleJudge(shop_of(self.setting.world, held_out=True))

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """1 where a part of the style is right."""
        styles = []
        for ad, request in zip(made, asked, strict=True):
            product = np.asarray(cutout.place(request.example.product.cutout, ad.painted.width))[..., 3]
            styles.append(self.judge.style(ad.painted, product))
        liked = [taste_of(request).style for request in asked]
        return {
            part: np.array([float(getattr(s, part) == getattr(t, part)) for s, t in zip(styles, liked, strict=True)])
            for part in ("palette", "layout", "lighting")
        }


class WordsScorer:
    """Which of the product's selling points a text uses, and how it is phrased."""

    name = "words"
    needs = frozenset({"text", "taste"})

    def __init__(self, setting: Setting) -> None:
        """There is nothing to set."""

    def score(self, made: Sequence[Ad], asked: Sequence[Request]) -> dict[str, Values]:
        """Share of points of the liked kind (NaN where a text has none), whether manner and words are right."""
        rows = []
        for ad, request in zip(made, asked, strict=True):
            taste = taste_of(request)
            parsed = parse(ad.text, request.example.product.selling_points, request.language)
            liked = [KIND_OF[point] == taste.kind for point in parsed.points if point in KIND_OF]
            rows.append((np.mean(liked) if liked else np.nan, parsed.manner == taste.manner, parsed.faithful))
        columns = np.array(rows, np.float64).reshape(-1, 3).T
        return dict(zip(("liked", "manner", "faithful"), columns, strict=True))


def taste_of(request: Request) -> Taste:
    """What the shopper of a request likes; only AdWorld's requests get here."""
    assert request.taste is not None, "scorers that need a taste are not asked without"
    return request.taste
