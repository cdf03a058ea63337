"""What PBS learns by: the loss, the encoder that follows, views, and a training that goes on where it stopped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from checkpoint import saved
from moco import TINY, checkpoint, moco_tensors, random_pbs
from uniadgen.__main__ import app
from uniadgen.config import ContrastConfig, PBSConfig, override
from uniadgen.metrics.contrast import Contrast, Views
from uniadgen.metrics.learn import AdWorldPairs, Batches, Folders, train_pbs
from uniadgen.metrics.pbs import PBS
from uniadgen.metrics.views import crop, random_view
from uniadgen.recipes import PBS_RECIPES, paper_pbs
from uniadgen.recipes import pbs as pbs_recipe

CONFIG = ContrastConfig(pair_num=3, temperature=0.5, momentum=0.75, hidden_size=16, train_trunk=True)
SMALL = {f"model.{name}": value for name, value in vars(TINY).items()} | {
    "contrast.pair_num": 2,
    "contrast.hidden_size": 16,
    "train.batch_size": 4,
    "train.steps": 4,
    "train.save_every": 2,
    "picture_size": 16,
}


def views(seed: int = 0, number: int = 6) -> Views:
    generator = torch.Generator().manual_seed(seed)
    return Views(*(torch.randn(number, 3, 32, 32, generator=generator) for _ in range(2)))


def contrast(config: ContrastConfig = CONFIG) -> Contrast:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Contrast(random_pbs(), config)


# the loss


def cross_entropy_by_hand(queries: Tensor, keys: Tensor, groups: list[list[int]], temperature: float) -> float:
    """Of finding the key of one's own number among those of one's group."""
    q, k = (x.detach().double().numpy() for x in (queries, keys))
    found = []
    for group in groups:
        for i in group:
            logits = [q[i] @ k[j] / np.linalg.norm(q[i]) / np.linalg.norm(k[j]) / temperature for j in group]
            found.append(-logits[group.index(i)] + np.log(np.exp(logits).sum()))
    return float(np.mean(found))


@pytest.mark.parametrize("in_batch", [False, True])
def test_the_loss_is_that_of_the_fact_sheet(in_batch: bool) -> None:
    model = contrast(replace(CONFIG, in_batch_negatives=in_batch)).eval()
    seen = views()
    groups = [[*range(6)]] if in_batch else [[0, 1, 2], [3, 4, 5]]
    keys = [model.projector(model.pbs(view)) for view in (seen.first, seen.second)]
    queries = [model.predictor(key) for key in keys]
    both = sum(cross_entropy_by_hand(queries[i], keys[1 - i], groups, 0.5) for i in (0, 1))
    assert model.loss(seen).total.item() == pytest.approx(2 * 0.5 * both, rel=1e-4)


def test_chance_is_twice_2t_ln_pair_num() -> None:
    model = contrast().train()
    alike = torch.zeros(6, 3, 32, 32)
    found = model.loss(Views(alike, alike))
    assert found.total.item() == pytest.approx(2 * 2 * 0.5 * np.log(3), rel=1e-5)


def test_a_picture_is_found_by_itself_and_not_by_others() -> None:
    model = contrast().eval()
    model.predictor = torch.nn.Identity()
    seen = views()
    same = Views(seen.first, seen.first)
    moved = Views(seen.first, seen.first.roll(1, dims=0))
    assert model.loss(same).hits.item() == 1
    assert model.loss(moved).hits.item() < 0.5
    assert model.loss(same).total < model.loss(moved).total


@pytest.mark.parametrize("train_trunk", [True, False])
def test_what_learns_gets_a_gradient_and_nothing_else(train_trunk: bool) -> None:
    model = contrast(replace(CONFIG, train_trunk=train_trunk)).train()
    model.loss(views()).total.backward()
    for name, parameter in model.named_parameters():
        learns = train_trunk or not name.startswith("pbs.vit.")
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name
        if learns and not name.endswith("k_proj.bias"):  # which attention does not notice
            assert parameter.grad.abs().max() > 0, name


def test_the_second_encoder_follows_by_its_momentum_and_keeps_its_own_statistics() -> None:
    model = contrast().train()
    leader, follower = model.pbs.compress[0].weight, model.followers["compress"][0].weight
    before = follower.clone()
    with torch.no_grad():
        leader.add_(1)
    model.loss(views())
    torch.testing.assert_close(follower, before + 0.25)
    own, led = model.followers["compress"][1].running_mean, model.pbs.compress[1].running_mean
    assert not torch.allclose(own, led)
    assert not list(model.followers.parameters())
    assert set(dict(model.followers.named_buffers())) >= {"vit.embeddings.cls_token", "projector.0.weight"}


def test_a_frozen_trunk_is_not_copied() -> None:
    assert set(contrast(replace(CONFIG, train_trunk=False)).followers) == {"compress", "projector"}


# views


def picture(size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(*size[::-1], 3), dtype=np.uint8))


PLAIN = ContrastConfig(min_crop=1, flip=0, blur=(0, 0), solarise=(0, 0))


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (300, 10)])
def test_crops_lie_inside_and_are_as_large_as_asked(size: tuple[int, int]) -> None:
    for seed in range(50):
        left, top, right, bottom = crop(size, 0.3, np.random.default_rng(seed))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        assert 3 / 4 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9
        long = max(size) > 4 / 3 * min(size) / 0.3
        assert long or (right - left) * (bottom - top) >= 0.3 * size[0] * size[1] - 1e-6


def test_every_change_can_be_switched_on_alone() -> None:
    source = picture((40, 40))

    def view(number: int = 0, **changes: object) -> np.ndarray:
        return random_view(source, 40, replace(PLAIN, **changes), number, np.random.default_rng(3)).astype(int)

    plain = view()
    np.testing.assert_allclose(view(flip=1.0), plain[:, ::-1])
    assert (view(solarise=(1.0, 0.0)) == np.where(plain < 128, plain, 255 - plain)).all()
    assert (view(number=1, solarise=(1.0, 0.0)) == plain).all()
    assert np.abs(np.diff(view(blur=(1.0, 0.0)), axis=0)).mean() < np.abs(np.diff(plain, axis=0)).mean()
    assert (view(colour_jitter=1.0) != plain).any()
    assert np.ptp(view(grey=1.0), axis=-1).max() == 0


def test_colours_stay_unless_colour_jitter_is_on() -> None:
    red = Image.new("RGB", (50, 50), (200, 40, 40))
    config = replace(ContrastConfig(), solarise=(0.0, 0.0))
    for seed in range(20):
        seen = random_view(red, 32, config, seed % 2, np.random.default_rng(seed)).reshape(-1, 3)
        assert np.abs(seen.astype(int) - (200, 40, 40)).max() <= 1
    moved = [random_view(red, 32, replace(config, colour_jitter=1.0), 0, np.random.default_rng(s)) for s in range(20)]
    assert np.ptp([view.mean() for view in moved]) > 20


# training


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A run's folder with AdWorld's pictures, that were never rendered: every picture of its own colour."""
    folder = tmp_path / "run" / "stock"
    folder.mkdir(parents=True)
    pictures = np.zeros((5760, 16, 16, 3), np.uint8)
    pictures[:] = np.random.default_rng(0).integers(256, size=(5760, 1, 1, 3))
    np.save(folder / "pictures.npy", pictures)
    np.save(folder / "cutouts.npy", np.zeros((5760, 16, 16, 4), np.uint8))
    for start in range(0, 5760, 120):
        (folder / f"done-{start}").touch()
    return folder


def test_a_group_is_one_product_on_different_backgrounds(stock: Path) -> None:
    config = override(pbs_recipe(), SMALL)
    source = AdWorldPairs(config, stock)
    styles = source.shop.style_indices(np.arange(5760))
    for seed in range(5):
        numbers = source.draw(4, np.random.default_rng(seed))
        assert len({number // 20 for number in numbers}) == 1
        assert len(set(styles[numbers])) == 4


def test_other_products_in_the_same_style_can_be_positives(stock: Path) -> None:
    source = AdWorldPairs(override(pbs_recipe(), SMALL), stock)
    others = [source.other(77, np.random.default_rng(seed)) for seed in range(30)]
    assert set(source.shop.style_indices(np.array(others))) == set(source.shop.style_indices(np.array([77])))
    assert len(set(others)) > 5
    for share in (0.0, 1.0):
        source.other_product = share
        same = source.group(20, np.random.default_rng(0))
        alike = [np.array_equal(np.asarray(pair.first), np.asarray(pair.second)) for pair in same]
        assert np.mean(alike) == 1 if share == 0 else np.mean(alike) < 0.5


def test_batches_are_a_pure_function_of_the_step(stock: Path) -> None:
    config = override(pbs_recipe(), SMALL)
    one, other = (Batches(config, AdWorldPairs(config, stock)).batch(7) for _ in range(2))
    assert one.first.shape == (4, 3, 32, 32)
    assert torch.equal(one.first, other.first) and torch.equal(one.second, other.second)
    assert not torch.equal(one.first, Batches(config, AdWorldPairs(config, stock)).batch(8).first)


def test_training_goes_on_to_the_bits_of_one_that_was_never_stopped(stock: Path, monkeypatch) -> None:
    config, run = override(pbs_recipe(), SMALL), stock.parent
    whole = train_pbs(config, run)
    (run / "model").rename(run / "whole")
    whole = whole.rename(run / "whole-weights")
    batch = Batches.batch
    monkeypatch.setattr(Batches, "batch", lambda self, step: batch(self, step if step != 3 else 1 / 0))
    with pytest.raises(ZeroDivisionError):
        train_pbs(config, run)
    monkeypatch.setattr(Batches, "batch", batch)
    again = train_pbs(config, run)
    a, b = saved(run / "whole"), saved(run / "model")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert "model.followers.vit.embeddings.cls_token" in a
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert PBS.from_pretrained(again).config == config.model
    assert PBSConfig.load(again / "recipe.json") == config


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """Three products with three pictures each, and one with too few."""
    for product, number in (("mug", 3), ("lamp", 3), ("sofa", 3), ("pot", 1)):
        (tmp_path / "data" / product).mkdir(parents=True)
        for place in range(number):
            picture((60, 40 + place)).save(tmp_path / "data" / product / f"{place}.png")
    return tmp_path / "data"


def test_the_paper_s_recipe_trains_heads_on_a_frozen_trunk_and_one_s_own_pictures(
    tmp_path: Path, products: Path
) -> None:
    tensors = {name: tensor for name, tensor in moco_tensors().items() if not name.startswith("compress_layer.")}
    base = checkpoint(tmp_path / "moco.pth", tensors, "state_dict")
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    out = tmp_path / "run"
    command = ["train", "paper_pbs", "--base", str(base), "--data", str(products), "--out", str(out), *settings]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    model = PBS.from_pretrained(out / "weights")
    torch.testing.assert_close(model.vit.embeddings.cls_token, tensors["cls_token"], atol=1e-3, rtol=1e-3)  # in half
    assert not torch.equal(model.compress[1].running_mean, torch.zeros(8))


def test_what_a_training_lacks_is_named(tmp_path: Path, products: Path) -> None:
    small = override(paper_pbs(), SMALL)
    with pytest.raises(ValueError, match="expected --data"):
        train_pbs(small, tmp_path / "run")
    with pytest.raises(ValueError, match="expected --base"):
        train_pbs(small, tmp_path / "run", data=products)
    with pytest.raises(ValueError, match=r"--set contrast\.other_product=0"):
        train_pbs(pbs_recipe(), tmp_path / "run", data=products)
    with pytest.raises(ValueError, match="none of 4 folders has 5 pictures"):
        Folders(products, 5)
    base = checkpoint(tmp_path / "moco.pth", moco_tensors(), "state_dict")
    with pytest.raises(ValueError, match=r"compress_layer.0.weight is not expected"):
        train_pbs(small, tmp_path / "run", base=base, data=products)


@pytest.mark.parametrize("name", PBS_RECIPES)
def test_recipes_can_be_saved(name: str, tmp_path: Path) -> None:
    config = PBS_RECIPES[name]()
    assert config.name == name
    config.save(tmp_path / "recipe.json")
    assert PBSConfig.load(tmp_path / "recipe.json") == config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train.batch_size": 31}, "a multiple of contrast.pair_num"),
        ({"train.checkpointing": True}, "train.checkpointing"),
        ({"contrast.pair_num": 1}, "contrast.pair_num"),
        ({"contrast.blur": (2.0, 0.1)}, "two shares"),
        ({"model.image_size": 100}, "a multiple of 16"),
        ({"model.resize": 50}, "at least model.image_size"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        override(paper_pbs(), changes)
