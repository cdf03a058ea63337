"""Picture metrics equal their definitions on tiny models, whatever pictures and prompts go in."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, gelu, layer_norm, linear, normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, DINOv3ViTModel

from metric_models import IMAGEREWARD, copied, head_shapes, imagereward_state, mocov3_state, tensors, write_all
from uniadgen.metrics.aesthetic import HEAD, load_aesthetic
from uniadgen.metrics.clip import load_clip, load_pickscore
from uniadgen.metrics.dinov3 import load_dinov3
from uniadgen.metrics.heads import fold
from uniadgen.metrics.imagereward import load_imagereward, published
from uniadgen.metrics.mocov3 import load_mocov3
from uniadgen.metrics.pictures import Encoder, similarity
from uniadgen.metrics.pixels import CLIP_CROP, IMAGENET_CROP, squash_of, standardised
from uniadgen.metrics.prompts import prompts_of
from uniadgen.model.shards import read, save_tensors
from uniadgen.records import Ad, Click, Example, Product

CPU = torch.device("cpu")
PROMPTS = ["a red mug", "a mug for the kitchen", "lamp", "Sofa, soft: 3 seats", "tea"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Noise of several sizes, coarse, so that resizing leaves something of it."""
    rng = np.random.default_rng(0)
    sizes = ((40, 30), (32, 32), (35, 61), (224, 224), (50, 33))
    coarse = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in sizes]
    return [picture.resize(size, Image.Resampling.NEAREST) for picture, size in zip(coarse, sizes, strict=True)]


# pixels


@pytest.mark.parametrize("size", [(224, 224), (300, 240), (240, 300), (1000, 500), (8, 12)])
def test_clips_own_preprocessing_is_transformers_where_margins_are_even(size: tuple[int, int]) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    theirs = CLIPImageProcessorPil()(images=noise, return_tensors="pt")["pixel_values"]
    assert torch.allclose(CLIP_CROP([noise]), theirs, atol=1e-5)


@pytest.mark.parametrize(("size", "left", "top"), [((1000, 667), 80, 16), ((667, 1000), 16, 80), ((256, 256), 16, 16)])
def test_an_odd_margin_is_halved_as_torchvision_halves_it(size: tuple[int, int], left: int, top: int) -> None:
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    short = {1000: 383, 667: 256, 256: 256}
    resized = np.asarray(noise.resize(tuple(short[side] for side in size), Image.Resampling.BILINEAR), np.float32)
    wanted = torch.from_numpy(resized[top : top + 224, left : left + 224].transpose(2, 0, 1) / 255)[None]
    wanted = standardised(wanted, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.allclose(IMAGENET_CROP([noise]), wanted, atol=1e-6)


def test_dinov3_squashes_in_floating_point(models: Path, pictures: list[Image.Image]) -> None:
    for picture in pictures:
        channels = [channel.convert("F").resize((32, 32), Image.Resampling.BILINEAR) for channel in picture.split()]
        wanted = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels]) / 255)[None]
        wanted = standardised(wanted, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert torch.allclose(squash_of(models / "dinov3")([picture]), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"resample": 2', '"resample": 3'), "'resample'"),
        (('"do_center_crop": null', '"do_center_crop": true'), "'do_center_crop'"),
        (('"do_resize": true', '"do_resize": false'), "'do_resize'"),
        (('"height": 32, ', ""), "'height'"),
        (("[0.485, 0.456, 0.406]", "[0.485]"), "expected its own file"),
        (("{", "["), "damaged, expected JSON"),
    ],
)
def test_another_preprocessing_than_dinov3s_is_refused(
    models: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    text = (models / "dinov3" / "preprocessor_config.json").read_text()
    assert change[0] in text
    (tmp_path / "preprocessor_config.json").write_text(text.replace(*change))
    with pytest.raises(ValueError, match=message):
        squash_of(tmp_path)


# the metrics, against their definitions


def test_clip_similarity_is_the_cosine_of_projected_vectors(models: Path, pictures: list[Image.Image]) -> None:
    model = CLIPModel.from_pretrained(models / "clip").eval()
    processor = CLIPImageProcessorPil.from_pretrained(models / "clip")
    with torch.no_grad():
        wanted = model.get_image_features(processor(images=pictures, return_tensors="pt")["pixel_values"]).pooler_output
    encoder = load_clip(models / "clip", CPU, batch_size=2)
    assert np.allclose(encoder.features(iter(pictures)), wanted, atol=1e-5)
    assert wanted.shape == (5, 16)
    found = similarity(encoder, pictures, pictures[::-1])
    assert np.allclose(found, cosine_similarity(wanted, wanted.flip(0)), atol=1e-5)
    assert found[2] == pytest.approx(1)


def test_pickscore_is_clips_logit_of_each_pair(models: Path, pictures: list[Image.Image]) -> None:
    model, tokenizer = CLIPModel.from_pretrained(models / "clip").eval(), AutoTokenizer.from_pretrained(models / "clip")
    seen = CLIPImageProcessorPil.from_pretrained(models / "clip")(images=pictures, return_tensors="pt")
    with torch.no_grad():
        words = tokenizer(PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
        wanted = model(**words, **seen).logits_per_text.diag()
    score = load_pickscore(models / "clip", CPU, batch_size=2)
    assert np.allclose(score(iter(pictures), iter(PROMPTS)), wanted, atol=1e-4)
    assert wanted.std() > 0.1  # prompts and pictures make a difference


def test_dinov3_features_are_the_class_token(models: Path, pictures: list[Image.Image]) -> None:
    model = DINOv3ViTModel.from_pretrained(models / "dinov3").eval()
    with torch.no_grad():
        output = model(squash_of(models / "dinov3")(pictures))
    features = load_dinov3(models / "dinov3", CPU, batch_size=3).features(pictures)
    assert np.allclose(features, output.pooler_output, atol=1e-5)
    assert np.allclose(features, output.last_hidden_state[:, 0], atol=1e-5)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K / sqrt(d)) V, head by head; (B, T, D) each."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None] == 0, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def see(weights: dict[str, Tensor], prefix: str, pixels: Tensor, heads: int) -> Tensor:
    """timm's ViT, from the formulas: every token after the last norm."""
    w = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    dense = lambda name, x: linear(x, w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    norm = lambda name, x: layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)  # noqa: E731
    patch = w["patch_embed.proj.weight"].shape[-1]
    x = conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch).flatten(2).mT
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for layer in range(2):
        block = f"blocks.{layer}"
        x = x + dense(
            f"{block}.attn.proj", attend(*dense(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, -1), heads)
        )
        x = x + dense(f"{block}.mlp.fc2", gelu(dense(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))))
    return norm("norm", x)


def test_mocov3_features_are_the_class_token_of_its_vit(models: Path, pictures: list[Image.Image]) -> None:
    wanted = see(mocov3_state(), "module.base_encoder.", IMAGENET_CROP(pictures), 12)[:, 0]
    features = load_mocov3(models / "mocov3", CPU, batch_size=2).features(pictures)
    assert np.allclose(features, wanted, atol=1e-4)


def read_prompt(weights: dict[str, Tensor], ids: Tensor, mask: Tensor, seen: Tensor, heads: int) -> Tensor:
    """BERT with cross-attention after every self-attention, from the formulas: every token."""
    prefix = "blip.text_encoder."
    w = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    dense = lambda name, x: linear(x, w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    norm = lambda name, x: layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)  # noqa: E731
    places = w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm("embeddings.LayerNorm", w["embeddings.word_embeddings.weight"][ids] + places)
    for layer in range(2):
        block = f"encoder.layer.{layer}"
        for part, other, hidden in (("attention", None, mask), ("crossattention", seen, None)):
            source = x if other is None else other
            parts = (dense(f"{block}.{part}.self.{name}", x if name == "query" else source) for name in QKV)
            x = norm(
                f"{block}.{part}.output.LayerNorm",
                dense(f"{block}.{part}.output.dense", attend(*parts, heads, hidden)) + x,
            )
        x = norm(
            f"{block}.output.LayerNorm",
            dense(f"{block}.output.dense", gelu(dense(f"{block}.intermediate.dense", x))) + x,
        )
    return x


QKV = ("query", "key", "value")


def through_layers(x: Tensor, weights: dict[str, Tensor], prefix: str = "") -> Tensor:
    for number in (0, 2, 4, 6, 7):
        x = linear(x, weights[f"{prefix}layers.{number}.weight"], weights[f"{prefix}layers.{number}.bias"])
    return x[:, 0]


def test_imagereward_is_its_definition_on_the_published_tensors(models: Path, pictures: list[Image.Image]) -> None:
    score = load_imagereward(models / "imagereward", CPU, batch_size=2, sizes=IMAGEREWARD)
    words = score.reader(PROMPTS)
    ids, mask = words["input_ids"], words["attention_mask"]
    assert ids.shape == (5, 35) and (ids[:, 0] == 2).all() and (mask.sum(1) < 35).all()  # [CLS] stays, padded
    state = imagereward_state()
    seen = see(state, "blip.visual_encoder.", CLIP_CROP(pictures), 2)
    reward = through_layers(read_prompt(state, ids, mask, seen, 3)[:, 0], state, "mlp.")
    wanted = (reward - 0.16717362830052426) / 1.0333394966054072
    assert np.allclose(score(pictures, PROMPTS), wanted, atol=1e-4)
    assert wanted.std() > 1e-2
    assert not np.allclose(score(pictures[::-1], PROMPTS), wanted, atol=1e-3)
    assert not np.allclose(score(pictures, PROMPTS[::-1]), wanted, atol=1e-3)


def test_imagereward_as_safetensors_scores_the_same(models: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    folder = copied(models / "imagereward", tmp_path / "safe")
    save_tensors(dict(read(folder / "ImageReward.pt")), folder / "ImageReward.safetensors")
    (folder / "ImageReward.pt").unlink()
    scores = [
        load_imagereward(where, CPU, sizes=IMAGEREWARD)(pictures, PROMPTS) for where in (models / "imagereward", folder)
    ]
    assert (scores[0] == scores[1]).all()


def test_the_published_imagereward_has_445_million_weights_besides_its_head() -> None:
    from uniadgen.metrics.imagereward import Network

    with torch.device("meta"):
        network = Network(published())
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["vision.embeddings.position_embedding"] == (1, 197, 1024)
    assert shapes["text.encoder.layer.11.crossattention.self.key.weight"] == (768, 1024)
    assert sum(np.prod(shape) for shape in shapes.values()) == 445_278_720


def test_the_folded_head_is_its_five_layers(tmp_path: Path) -> None:
    layers = tensors(head_shapes())
    layers = {name: tensor / tensor.shape[-1] ** 0.5 for name, tensor in layers.items()}
    x = torch.randn(7, 768, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(fold(tmp_path, layers)(x), through_layers(x, layers), atol=1e-6)


def test_the_aesthetic_score_reads_the_normalised_projected_vector(models: Path, pictures: list[Image.Image]) -> None:
    model = CLIPModel.from_pretrained(models / "ase").eval()
    with torch.no_grad():
        vectors = normalize(model.get_image_features(CLIP_CROP(pictures)).pooler_output)
    wanted = through_layers(vectors, torch.load(models / "ase" / HEAD))
    score = load_aesthetic(models / "ase", CPU, batch_size=2)
    assert np.allclose(score(pictures), wanted, rtol=1e-4)
    assert (score(pictures, [""] * 5) == score(pictures)).all()


# what goes in


@pytest.fixture(scope="module")
def means() -> Encoder:
    """The mean colour of each picture."""

    def pixels(batch: list[Image.Image]) -> Tensor:
        colours = [torch.from_numpy(np.array(picture, np.float32).mean((0, 1)) / 255) for picture in batch]
        return torch.stack(colours)[..., None, None]

    return Encoder("means", pixels, lambda seen: seen[..., 0, 0], CPU, 2)


def test_what_is_transparent_is_laid_on_white(means: Encoder) -> None:
    clear, red = Image.new("RGBA", (9, 9)), Image.new("RGBA", (9, 9), (255, 0, 0, 255))
    bright = Image.fromarray(np.full((9, 9), 60_000, np.uint16))
    features = means.features([clear, red, Image.new("L", (9, 9), 51), bright])
    assert features == pytest.approx(np.array([[1, 1, 1], [1, 0, 0], [0.2] * 3, [234 / 255] * 3]), abs=1e-6)


def test_pictures_are_taken_batch_by_batch(means: Encoder) -> None:
    taken, seen = [], []

    def pictures() -> Iterator[Image.Image]:
        for number in range(5):
            taken.append(number)
            yield Image.new("RGB", (9, 9))

    def pixels(batch: list[Image.Image]) -> Tensor:
        seen.append((len(batch), len(taken)))
        return means.pixels(batch)

    assert replace(means, pixels=pixels).features(pictures()).shape == (5, 3)
    assert seen == [(2, 2), (2, 4), (1, 5)]


def test_a_damaged_picture_is_named_and_not_left_out(means: Encoder, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with (
        Image.open(tmp_path / "cut.png") as cut,
        pytest.raises(ValueError, match=r"picture 2 .*cut\.png: damaged or cut short"),
    ):
        means.features(iter([noise, noise, cut]))


@pytest.mark.parametrize(
    ("pictures", "message"),
    [([], "got no pictures"), ([Image.new("RGB", (8, 500))], "picture 0: 8 x 500 pixels, expected a long side")],
)
def test_odd_pictures_are_refused(means: Encoder, pictures: list[Image.Image], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        means.features(pictures)


def test_both_sides_of_a_similarity_have_as_many_pictures(means: Encoder, pictures: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="got 5 and 4 pictures"):
        similarity(means, pictures, pictures[1:])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "got no prompts"),
        (PROMPTS[:3], "got 3 prompts and more pictures"),
        ([*PROMPTS, "more"], "got more prompts than the 5 pictures"),
        ([*PROMPTS[:3], " ", "tea"], "prompt 3 is empty"),
    ],
)
def test_every_picture_needs_its_prompt(
    models: Path, pictures: list[Image.Image], prompts: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_pickscore(models / "clip", CPU, batch_size=2)(pictures, prompts)


def test_prompts_that_are_not_read_to_their_end_are_told(models: Path) -> None:
    score = load_pickscore(models / "clip", CPU)
    fits, long = "m" * 75, "m" * 76  # each letter is a token; so are beginning and end
    assert score.truncated([fits, long, "tea"]).tolist() == [False, True, False]
    assert score.truncated([]).tolist() == []
    reward = load_imagereward(models / "imagereward", CPU, sizes=IMAGEREWARD)
    assert reward.truncated(["m" * 33, "m" * 34]).tolist() == [False, True]
    pictures = [Image.new("RGB", (40, 40), "red")] * 2
    assert np.ptp(score(pictures, [long, long + "a"])) < 1e-4  # what is cut off has no effect
    assert load_aesthetic(models / "ase", CPU).truncated([long]).tolist() == [False]


def test_the_prompt_is_one_of_the_ads_words(product: Product) -> None:
    target = Click(Image.new("RGB", (9, 9)), "the title that was clicked")
    ad = Ad(Image.new("RGB", (9, 9)), Image.new("RGB", (9, 9)), "Kitchen mug: dishwasher safe", 0)
    found = {choice: prompts_of([Example(product, (), target)], [ad], choice)[0] for choice in CHOICES}
    assert found == CHOICES
    with pytest.raises(ValueError, match="without a target"):
        prompts_of([Example(product)], [ad], "target")
    with pytest.raises(ValueError, match="did you mean 'text'"):
        prompts_of([], [], "texts")
    with pytest.raises(ValueError, match="got 1 examples and 0 ads"):
        prompts_of([Example(product)], [], "text")


CHOICES = {
    "description": "A red mug for the kitchen.",
    "points": "kitchen mug, dishwasher safe, gift box included",
    "text": "Kitchen mug: dishwasher safe",
    "target": "the title that was clicked",
}
