"""Shapes checked at every tensor boundary, and a nano so small that it is trained within the tests."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from PIL import Image, ImageDraw

# Every annotation is checked at every call in every test. AdWorld and the engine's kernels are left out: they handle no
# tensors, and numba compiles their functions. So is the configuration: transformers checks it, and two checkers do not
# go together.
PACKAGE = Path(find_spec("uniadgen").origin).parent
MODULES = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))]
UNHOOKED = ("uniadgen.world.", "uniadgen.engine.kernels", "uniadgen.model.configuration")
# Packages are not named: a package's name stands for all that is below it.
HOOKED = [name for name in MODULES if not name.startswith(UNHOOKED) and not name.endswith("__init__")]
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as Python's typing has it
install_import_hook(HOOKED, f"{__name__}.checked")

import torch  # noqa: E402
from transformers import Dinov2Config, Dinov2Model, PreTrainedTokenizerBase  # noqa: E402

from uniadgen import AdGenerator, Click, Config, Product  # noqa: E402
from uniadgen.config import override  # noqa: E402
from uniadgen.data.batch import Row  # noqa: E402
from uniadgen.data.prompt import STYLE, TEMPLATES, Layout, Shown, Target  # noqa: E402
from uniadgen.data.tokenizer import learn_tokenizer  # noqa: E402
from uniadgen.model import weights  # noqa: E402
from uniadgen.model.uniadgen import UniAdGenForConditionalGeneration  # noqa: E402
from uniadgen.recipes import nano  # noqa: E402

torch.set_num_threads(1)

# nano's own architecture, shrunk: 4 x 4 cells to paint, 2 x 2 cells of every clicked picture.
TINY = {
    "model.vq_patch": 8,
    "data.image_size": 32,
    "data.click_size": 16,
    "data.num_clicks": 4,
    "model.hidden_size": 64,
    "model.num_layers": 4,
    "model.num_heads": 4,
    "model.intermediate_size": 128,
    "model.vocab_size": 1024,
    "model.num_codes": 64,
    "model.vq_channels": 32,
    "model.vq_blocks": 1,
    "model.vq_latent": 16,
    "model.foreground_size": 48,
    "model.word_preference": 8,
    "vq_train.steps": 4,
    "vq_train.batch_size": 4,
    "words_train.steps": 4,
    "words_train.batch_size": 4,
    "words_train.save_every": 3,
    "train.steps": 6,
    "train.batch_size": 4,
    "train.save_every": 4,
    "train.sample_every": 6,
    "generate.max_words": 12,
    "world.num_shoppers": 3,
    "world.num_variants": 12,
}
TEXTS = (
    "dishwasher safe and light",
    "kitchen mug: gift box included!",
    "家用马克杯，礼盒包装",
    "A red mug for the kitchen.",
)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """nano, and every size at its smallest."""
    return override(nano(), TINY)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer learnt from a handful of texts."""
    templates = [text for pool in TEMPLATES.values() for text in pool]
    return learn_tokenizer([*templates, *STYLE.values(), *TEXTS], 600)


@pytest.fixture(scope="session")
def layout(tokenizer: PreTrainedTokenizerBase, tiny_config: Config) -> Layout:
    """The layout of the tiny model."""
    return Layout(tokenizer, tiny_config)


@pytest.fixture
def fresh_model(tiny_config: Config, tokenizer: PreTrainedTokenizerBase) -> UniAdGenForConditionalGeneration:
    """A tiny model as it is before its first step: what starts at zero is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _ = weights.build(tiny_config, tokenizer)
    model.model.vqmodel.requires_grad_(False)
    return model


@pytest.fixture
def model(fresh_model: UniAdGenForConditionalGeneration) -> UniAdGenForConditionalGeneration:
    """A tiny model in which nothing is zero any more and every part matters, as after training; in eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in fresh_model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return fresh_model.eval()


@pytest.fixture(scope="session")
def make_row(layout: Layout, tiny_config: Config) -> Callable[..., Row]:
    """Lays out one random row: `make_row(seed, num_clicks=2, target=True)`."""

    def make(seed: int, num_clicks: int = 2, target: bool = True, using: Layout = layout) -> Row:
        rng = np.random.default_rng(seed)
        codes = lambda num: rng.integers(tiny_config.model.num_codes, size=num)  # noqa: E731
        # Titles of different lengths.
        clicks = [
            Shown(TEXTS[(seed + i) % 3] + " mug" * (i % 3), codes(tiny_config.click_cells)) for i in range(num_clicks)
        ]
        cutout = rng.random((4, tiny_config.data.image_size, tiny_config.data.image_size), dtype=np.float32)
        cutout[:3] *= cutout[3]
        answer = Target(TEXTS[seed % 3], codes(tiny_config.cells)) if target else None
        points = ("kitchen mug", "dishwasher safe")
        return using.lay_out("A red mug for the kitchen.", points, cutout, clicks, template=seed, target=answer)

    return make


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 with random weights, its position table larger than we use."""
    folder = tmp_path_factory.mktemp("dinov2")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes, image_size=98)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rendering() -> None:
    """Compiles the renderer once, into numba's cache: child processes then only read it."""
    from uniadgen.data.adworld import cutout_of, picture_of, shop_of

    shop = shop_of(nano().world)
    picture_of(shop, 0, 16)
    cutout_of(shop, 0, 16)


@pytest.fixture(scope="session")
def tiny_run(tiny_config: Config, rendering: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a tiny nano, trained from scratch on AdWorld for a few steps."""
    from uniadgen.train.nano import train_recipe

    return train_recipe(tiny_config, tmp_path_factory.mktemp("run"))


@pytest.fixture
def stock(tiny_run: Path, tiny_config: Config, tmp_path: Path) -> Path:
    """Its rendered pictures in a folder of the test's own: codes of other VQs are written there."""
    from uniadgen.train.loop import keep_config

    shutil.copytree(tiny_run.parent / "stock", tmp_path / "shared" / "stock")
    keep_config(tiny_config, tmp_path / "shared")
    return tmp_path / "shared"


@pytest.fixture(scope="session")
def generator(tiny_run: Path) -> AdGenerator:
    """A generator of the trained tiny nano."""
    return AdGenerator.from_pretrained(tiny_run)


@pytest.fixture
def product() -> Product:
    """A red disc, cut out."""
    cutout = Image.new("RGBA", (60, 60))
    ImageDraw.Draw(cutout).ellipse((15, 18, 44, 47), fill=(200, 30, 30, 255))
    return Product(cutout, "A red mug for the kitchen.", ("kitchen mug", "dishwasher safe", "gift box included"))


@pytest.fixture
def clicks() -> tuple[Click, ...]:
    """Six clicked ads: plain pictures of different colours, titles near and far from the product."""
    titles = ("kitchen mug", "beauty cream", "red kettle for the kitchen", "outdoor tent", "a lamp", "a mug")
    return tuple(Click(Image.new("RGB", (40, 30), (40 * i, 255 - 40 * i, 90)), title) for i, title in enumerate(titles))
