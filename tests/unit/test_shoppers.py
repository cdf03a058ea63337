"""AdWorld's shop: one seed gives one world, noise rates are met, and histories never show the target."""

import pickle
import subprocess
import sys
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from uniadgen.world.catalogue import NUM_TEXTS, Catalogue, department_index, text_id
from uniadgen.world.counters import What, below, bits, generator, unit
from uniadgen.world.products import DEPARTMENTS, FAMILIES
from uniadgen.world.scenes import NUM_STYLES, Style
from uniadgen.world.shoppers import CLICK, LOG_SECONDS, LOG_START, REASONS, Chunk, Noise, Shop
from uniadgen.world.words import KINDS, LANGUAGES, MANNERS, parse


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(7)


def whole(log) -> Chunk:
    return Chunk(*(np.concatenate(column) for column in zip(*log, strict=True)))


# counters


def test_bits_depend_on_every_counter_and_broadcast() -> None:
    grid = bits(1, What.TASTE, np.arange(300)[:, None], np.arange(200))
    assert grid.shape == (300, 200)
    assert len(np.unique(grid)) == grid.size
    assert grid[17, 5] == bits(1, What.TASTE, 17, 5)[0]
    assert bits(1, What.TASTE, 17, 5) != bits(2, What.TASTE, 17, 5)
    assert bits(1, What.TASTE, 17, 5) != bits(1, What.VISIT, 17, 5)


def test_bits_are_even() -> None:
    draws = bits(0, What.LOG, np.arange(100_000))
    ones = np.unpackbits(draws.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert abs(ones - 0.5).max() < 0.01
    counts = np.bincount(below(draws, 10), minlength=10)
    assert abs(counts / len(draws) - 0.1).max() < 0.005
    assert unit(draws).min() >= 0
    assert unit(draws).max() < 1
    assert abs(np.corrcoef(unit(draws)[1:], unit(draws)[:-1])[0, 1]) < 0.02


def test_generators_are_apart() -> None:
    draws = {generator(seed, what, 3).random() for seed in (0, 1) for what in What}
    assert len(draws) == 2 * len(What)


# catalogue


def test_every_block_of_pictures_shows_every_style_once(shop: Shop) -> None:
    styles = shop.style_indices(np.arange(shop.num_pictures)).reshape(-1, NUM_STYLES)
    assert (np.sort(styles, axis=1) == np.arange(NUM_STYLES)).all()
    assert len({tuple(block) for block in styles.tolist()}) == len(styles) == 24


def test_pictures_of_a_style_are_the_inverse(shop: Shop) -> None:
    every = np.arange(NUM_STYLES)
    found = [shop.pictures_of(department, every) for department in DEPARTMENTS]
    for department, pictures in zip(DEPARTMENTS, found, strict=True):
        assert pictures.shape == (NUM_STYLES, 4)
        assert (shop.style_indices(pictures) == every[:, None]).all()
        assert (shop.pictures_of(department, 11) == pictures[11]).all()
        products = {shop.product(int(i)) for i in np.unique(shop.product_ids(pictures))}
        assert {product.department for product in products} == {department}
    assert (np.sort(np.concatenate(found, axis=None)) == np.arange(shop.num_pictures)).all()


def test_creatives_nest_in_pictures_and_products(shop: Shop) -> None:
    assert shop.num_creatives == 576 * 20 * 20
    for number in range(0, shop.num_creatives, 997):
        creative = shop.creative(number)
        assert creative.creative_id == number
        assert shop.creative_id(creative.picture_id, creative.kind, creative.manner) == number
        assert creative.style.index == shop.style_indices(np.array(creative.picture_id))
        assert creative.product_id == creative.picture_id // 20
        family = FAMILIES[creative.product.family]
        assert creative.product.department == family.department
    texts = {text_id(kind, manner) for kind in KINDS for manner in MANNERS}
    assert texts == set(range(NUM_TEXTS))


def test_the_catalogue_follows_its_seed() -> None:
    first, again, other = Catalogue(3), Catalogue(3), Catalogue(4)
    last = again.product(575)  # asked for in another order
    assert [again.product(i).description("en") for i in (0, 575)] == [
        first.product(i).description("en") for i in (0, 575)
    ]
    assert last.variant == first.product(575).variant
    assert again.creative(12345).text("zh") == first.creative(12345).text("zh")
    everything = np.arange(first.num_pictures)
    assert (first.style_indices(everything) == again.style_indices(everything)).all()
    assert (first.style_indices(everything) != other.style_indices(everything)).mean() > 0.9
    assert first.scene_generator(5).random() == again.scene_generator(5).random()
    assert first.scene_generator(5).random() != first.scene_generator(6).random()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_taken_apart_again(shop: Shop, language: str) -> None:
    for number in range(0, shop.num_creatives, 211):
        creative = shop.creative(number)
        points = creative.product.selling_points(language)
        found = parse(creative.text(language), points, language)
        assert found.leftover == ""
        assert (found.kind, found.manner) == (creative.kind, creative.manner)
        assert len(found.points) == 3
        assert points[0] in found.points


def test_every_product_has_its_words(shop: Shop) -> None:
    for number in range(0, shop.num_products, 6):
        product = shop.product(number)
        colour, finish = product.variant.colour, product.variant.finish
        assert {colour, finish} <= set(product.description("en").lower().replace(",", " ").split())
        assert product.description("zh").endswith("。")


def test_a_shop_can_be_sent_to_another_process(shop: Shop) -> None:
    assert pickle.loads(pickle.dumps(shop)).visit(5) == shop.visit(5)


# shoppers


def test_shoppers_are_made_from_their_number(shop: Shop) -> None:
    backwards = [Shop(7).shopper(i) for i in reversed(range(50))]
    assert backwards[::-1] == [shop.shopper(i) for i in range(50)]
    assert shop.shopper(3).tastes != Shop(8).shopper(3).tastes
    assert shop.shopper(10**12).shopper_id == 10**12


def test_tastes_are_even_and_independent(shop: Shop) -> None:
    shoppers = [shop.shopper(i) for i in range(3000)]
    assert all(tuple(shopper.tastes) == DEPARTMENTS for shopper in shoppers)
    assert all(len(set(shopper.departments)) == 3 for shopper in shoppers)
    for values, options in (
        ([s.language for s in shoppers], 2),
        ([s.departments[0] for s in shoppers], 6),
        ([s.tastes["beauty"].kind for s in shoppers], 5),
        ([s.tastes["beauty"].manner for s in shoppers], 4),
        ([(s.tastes["beauty"].kind, s.tastes["fashion"].kind) for s in shoppers], 25),
    ):
        counts = Counter(values)
        assert len(counts) == options
        expected = 3000 / options
        assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5
    indices = shop.taste_indices(np.arange(100_000), np.array(2)) // NUM_TEXTS
    assert len(np.unique(indices)) == NUM_STYLES


def test_the_target_is_on_taste_and_not_in_the_history(shop: Shop) -> None:
    for number in range(400):
        department = DEPARTMENTS[number % 6] if number % 2 else None
        visit = shop.visit(number, department, 24)
        assert visit.department == (department or visit.shopper.departments[0])
        target, taste = shop.creative(visit.target), visit.shopper.tastes[visit.department]
        assert target.product.department == visit.department
        assert (target.style, target.kind, target.manner) == (taste.style, taste.kind, taste.manner)
        pictures = {click // NUM_TEXTS for click in visit.history.creative_ids}
        assert target.picture_id not in pictures
        assert len(visit.history.creative_ids) == len(visit.history.reasons) == 24


def test_reasons_tell_what_is_on_taste(shop: Shop) -> None:
    for number in range(200):
        visit = shop.visit(number)
        for click, reason in zip(visit.history.creative_ids, visit.history.reasons, strict=True):
            creative = shop.creative(click)
            taste = visit.shopper.tastes[creative.product.department]
            if reason in ("both", "image"):
                assert creative.style == taste.style
            if reason in ("both", "text"):
                assert (creative.kind, creative.manner) == (taste.kind, taste.manner)


@pytest.mark.parametrize("noise", [Noise(), Noise(sample=0.4, image_only=0.1, text_only=0.3, home_share=0.8)])
def test_histories_meet_the_rates(noise: Noise) -> None:
    shop = Shop(1, noise=noise)
    visits = [shop.visit(i) for i in range(1500)]
    reasons = Counter(reason for visit in visits for reason in visit.history.reasons)
    both = 1 - noise.sample - noise.image_only - noise.text_only
    wanted = dict(zip(REASONS, (both, noise.image_only, noise.text_only, noise.sample), strict=True))
    for reason, rate in wanted.items():
        assert reasons[reason] / reasons.total() == pytest.approx(rate, abs=0.012)
    visited = [[shop.creative(c).product.department for c in v.history.creative_ids] for v in visits]
    home = [place == v.department for v, places in zip(visits, visited, strict=True) for place in places]
    assert np.mean(home) == pytest.approx(noise.home_share, abs=0.012)
    assert max(len(set(places)) for places in visited) == 3


def test_noiseless_clicks_are_all_on_taste() -> None:
    noise = Noise(sample=0, image_only=0, text_only=0, home_share=1, num_departments=1, length=5)
    shop = Shop(1, noise=noise)
    for number in range(50):
        visit = shop.visit(number)
        assert visit.history.reasons == ("both",) * 5
        clicked = [shop.creative(click) for click in visit.history.creative_ids]
        assert {creative.style for creative in clicked} == {shop.creative(visit.target).style}
        assert {creative.product.department for creative in clicked} == {visit.department}


def test_the_clicked_pictures_are_spread_evenly() -> None:
    shop = Shop(1, noise=Noise(sample=0, image_only=0, text_only=0, home_share=1, num_departments=1))
    places: Counter[int] = Counter()
    for number in range(600):
        visit = shop.visit(number)
        target = visit.target // NUM_TEXTS // NUM_STYLES
        places.update((click // NUM_TEXTS // NUM_STYLES - target) % 4 for click in visit.history.creative_ids)
    assert sorted(places) == [1, 2, 3]
    assert all(count / places.total() == pytest.approx(1 / 3, abs=0.02) for count in places.values())


def test_visits_repeat_and_shorter_ones_are_beginnings(shop: Shop) -> None:
    assert shop.visit(9) == Shop(7).visit(9)
    short, long = shop.visit(9, length=4), shop.visit(9, length=16)
    assert short.target == long.target
    assert short.history.creative_ids == long.history.creative_ids[:4]
    assert shop.visit(9, length=0).history.creative_ids == ()
    shopper = shop.shopper(9)
    again = [shop.history(shopper, "living", 8, np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]


def test_visits_and_texts_are_fast(shop: Shop) -> None:
    begin = time.perf_counter()
    for number in range(300):
        shop.visit(number)
    visits = (time.perf_counter() - begin) / 300
    creative = shop.creative(77)
    creative.text("en")
    begin = time.perf_counter()
    for _ in range(300):
        creative.text("en")
    texts = (time.perf_counter() - begin) / 300
    assert visits < 4e-3  # about 0.4 ms on an idle core
    assert texts < 4e-4  # about 0.03 ms


# click logs


def test_a_log_does_not_depend_on_its_chunks(shop: Shop) -> None:
    wide, narrow = whole(shop.click_log(5000)), whole(shop.click_log(5000, chunk=777))
    for one, other in zip(wide, narrow, strict=True):
        assert (one == other).all()
        assert one.dtype == other.dtype
    assert [len(part.user_id) for part in shop.click_log(5000, chunk=2000)] == [2000, 2000, 1000]
    assert list(shop.click_log(0)) == []
    assert (whole(shop.click_log(5000, log=1)).creative_id != wide.creative_id).mean() > 0.9


def test_a_log_is_in_order_and_within_its_limits(shop: Shop) -> None:
    log = whole(shop.click_log(20_000, num_shoppers=1000, first_shopper=500))
    assert (np.diff(log.timestamp) >= 0).all()
    assert log.timestamp[0] >= LOG_START
    assert log.timestamp[-1] < LOG_START + LOG_SECONDS
    assert (log.event == CLICK).all()
    assert log.user_id.min() >= 500
    assert log.user_id.max() < 1500
    assert log.creative_id.min() >= 0
    assert log.creative_id.max() < shop.num_creatives
    counts = np.bincount(log.user_id - 500, minlength=1000)
    assert counts.max() > 5 * counts.mean()
    assert abs(np.corrcoef(np.arange(1000), counts)[0, 1]) < 0.15


def test_a_log_has_the_shoppers_tastes_and_rates(shop: Shop) -> None:
    log = whole(shop.click_log(60_000))
    pictures, texts = np.divmod(log.creative_id, NUM_TEXTS)
    departments = np.array([department_index(shop.product(i).department) for i in range(shop.num_products)])
    departments = departments[shop.product_ids(pictures)]
    tastes = shop.taste_indices(log.user_id, departments)
    on_picture = shop.style_indices(pictures) == tastes // NUM_TEXTS
    on_text = texts == tastes % NUM_TEXTS
    # A random picture or text is on taste by chance, too.
    assert on_picture.mean() == pytest.approx(0.65 + 0.35 / NUM_STYLES, abs=0.01)
    assert on_text.mean() == pytest.approx(0.65 + 0.35 / NUM_TEXTS, abs=0.01)
    assert (on_picture & on_text).mean() == pytest.approx(0.45 + 0.2 / NUM_TEXTS, abs=0.01)
    for user in np.unique(log.user_id)[:40].tolist():
        shopper, mine = shop.shopper(user), log.user_id == user
        assert {DEPARTMENTS[d] for d in departments[mine]} <= set(shopper.departments)
        taste = shopper.tastes[DEPARTMENTS[departments[mine][0]]]
        number = taste.style.index * NUM_TEXTS + text_id(taste.kind, taste.manner)
        assert number == tastes[mine][0]
    users = log.user_id[:4000].tolist()
    favourites = [department_index(shop.shopper(user).departments[0]) for user in users]
    assert (departments[:4000] == np.array(favourites)).mean() == pytest.approx(0.5, abs=0.04)


def test_a_long_log_is_fast_and_small(shop: Shop) -> None:
    begin = time.perf_counter()
    clicks = sum(len(part.user_id) for part in shop.click_log(200_000, chunk=50_000))
    seconds = time.perf_counter() - begin
    tracemalloc.start()
    for _ in shop.click_log(200_000, chunk=50_000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clicks == 200_000
    assert seconds < 2  # about 0.03 s on an idle core; a million clicks may take 10 s
    assert peak < 20e6


# what is refused


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Shop(-1), "seed"),
        (lambda: Shop(0, num_variants=5), "multiple of 480"),
        (lambda: Shop(0, num_variants=0), "variants"),
        (lambda: Shop(0, languages=("en", "fr")), "fr"),
        (lambda: Shop(0, languages=()), "languages"),
        (lambda: Shop(0, num_variants=6).visit(0), "at least two"),
        (lambda: Shop(0).visit(-1), "shopper"),
        (lambda: Shop(0).visit(0, "garage"), "garage"),
        (lambda: Shop(0).visit(0, length=-1), "length"),
        (lambda: Shop(0).product(576), "576"),
        (lambda: Shop(0).creative(-1), "creative"),
        (lambda: Shop(0).creative_id(11520, "care", "new"), "picture"),
        (lambda: Shop(0).creative_id(0, "care", "loud"), "loud"),
        (lambda: Shop(0).creative(0).text("fr"), "fr"),
        (lambda: next(Shop(0).click_log(10, chunk=0)), "chunk"),
        (lambda: next(Shop(0).click_log(-1)), "num_clicks"),
        (lambda: Noise(sample=-0.1), "sample"),
        (lambda: Noise(sample=0.5, image_only=0.4, text_only=0.2), "<= 1"),
        (lambda: Noise(home_share=1.1), "home_share"),
        (lambda: Noise(num_departments=7), "num_departments"),
        (lambda: Noise(length=-1), "length"),
    ],
)
def test_impossible_requests_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_a_style_has_a_number() -> None:
    assert [Style.from_index(i).index for i in range(NUM_STYLES)] == list(range(NUM_STYLES))


def test_clicks_need_no_renderer() -> None:
    code = "import sys, uniadgen.world.shoppers; sys.exit('uniadgen.world.render' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
