"""The desk: orders from many threads, each the ad that it would be alone."""

from threading import Thread

import pytest

from uniadgen import AdGenerator, Config, Product
from uniadgen.config import replace_in
from uniadgen.data.prompt import Layout
from uniadgen.desk import Desk
from uniadgen.engine.ticket import QueueFull


@pytest.fixture
def shop(model, layout: Layout, tiny_config: Config) -> AdGenerator:
    """A generator with random weights."""
    return AdGenerator(model, layout, replace_in(tiny_config, generate__max_words=6))


@pytest.fixture
def desk(shop: AdGenerator):
    """One at which somebody works."""
    desk = Desk(shop, num_slots=2)
    worker = Thread(target=desk.work)
    worker.start()
    yield desk
    desk.close()
    worker.join(timeout=60)
    assert not worker.is_alive()


def test_an_order_is_the_ad_that_the_generator_makes(shop: AdGenerator, desk: Desk, product: Product, clicks) -> None:
    made = {}

    def ask(seed: int, guidance: float | None) -> None:
        made[seed] = desk.order(product, clicks[:seed], seed=seed, guidance=guidance).ad()

    asked = [(0, None), (1, 3.0), (2, 1.0), (3, None)]
    shoppers = [Thread(target=ask, args=one) for one in asked]
    for shopper in shoppers:
        shopper.start()
    for shopper in shoppers:
        shopper.join()
    for seed, guidance in asked:
        alone = shop.generate(product, clicks[:seed], seed=seed, guidance=guidance)
        assert made[seed].painted.tobytes() == alone.painted.tobytes()
        assert (made[seed].text, made[seed].record) == (alone.text, alone.record)


def test_updates_are_those_of_the_stream(shop: AdGenerator, desk: Desk, product: Product, clicks) -> None:
    ours = list(desk.order(product, clicks, seed=4).updates())
    alone = list(shop.stream(product, clicks, seed=4))
    assert [update.done for update in ours] == [False] * (len(ours) - 1) + [True]
    assert ours[-1].ad.painted.tobytes() == alone[-1].ad.painted.tobytes()
    assert {update.text for update in ours} == {update.text for update in alone}
    rows = [update.picture.tobytes() for update in ours if update.picture]
    assert rows == [update.picture.tobytes() for update in alone if update.picture]


def test_an_order_that_is_cancelled_has_no_ad(shop: AdGenerator, product: Product, clicks) -> None:
    desk = Desk(shop)
    kept, gone = desk.order(product, clicks, seed=1), desk.order(product, clicks, seed=2)
    desk.scheduler.step()
    gone.cancel()
    while desk.scheduler.step():
        pass
    assert gone.ad() is None
    assert kept.ad().painted.tobytes() == shop.generate(product, clicks, seed=1).painted.tobytes()


def test_a_closed_desk_gives_up_and_takes_no_orders(shop: AdGenerator, product: Product) -> None:
    desk = Desk(shop, num_slots=1)
    orders = [desk.order(product, seed=seed) for seed in range(2)]
    desk.scheduler.step()
    desk.close()
    desk.work()
    assert [order.ad() for order in orders] == [None, None]
    with pytest.raises(ValueError, match="the desk is closed"):
        desk.order(product)


def test_orders_that_are_none_are_refused_at_once(shop: AdGenerator, product: Product) -> None:
    desk = Desk(shop, num_slots=1, queue=1)
    with pytest.raises(ValueError, match="seed is -1"):
        desk.order(product, seed=-1)
    with pytest.raises(ValueError, match=r"generate.guidance is 0.5"):
        desk.order(product, guidance=0.5)
    desk.order(product)
    with pytest.raises(QueueFull):
        desk.order(product)
