"""AdWorld's truth for the checks: ads that are right, and the same ads with one known fault each."""

import io
import re
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from uniadgen.data.pasting import paste
from uniadgen.world import words
from uniadgen.world.products import FAMILIES, Family
from uniadgen.world.render import cutout, render
from uniadgen.world.scenes import NUM_STYLES, Style, scene

PAINTED, SIDE = 144, 288  # px: what is rendered as the model would paint it, and the ad that it is pasted into
LANGUAGES: Final = words.LANGUAGES


@dataclass(frozen=True)
class Sample:
    """One product in one scene: what the model would paint, the placed product, another product of its family."""

    family: str
    painted: Image.Image  # RGB, PAINTED px; it shows the product too, in the scene's light
    placed: Image.Image  # RGBA, SIDE px
    other: Image.Image  # RGBA, SIDE px, under the same camera


@dataclass(frozen=True)
class Wording:
    """One text about one product, and what is wrong with it: "" when nothing is."""

    text: str
    points: tuple[str, ...]
    description: str
    fault: str


def sample(number: int, seed: int = 0) -> Sample:
    """The sample with this number; families take turns. Equal numbers and seeds give equal samples."""
    rng = np.random.default_rng([seed, number])
    family = _family(number)
    solid, another = family.build(rng).solid, family.build(rng).solid
    in_scene = scene(Style.from_index(int(rng.integers(NUM_STYLES))), rng)
    painted = Image.fromarray(render(solid, in_scene, PAINTED).picture)
    placed, other = (Image.fromarray(cutout(each, in_scene.camera, SIDE)) for each in (solid, another))
    return Sample(family.name, painted, placed, other)


def _family(number: int) -> Family:
    """Families in turn, those of one department far apart, so that a few products already show all departments."""
    return list(FAMILIES.values())[7 * number % len(FAMILIES)]


def good_pictures(of: Sample, rng: np.random.Generator) -> dict[str, Image.Image]:
    """The ad as it is made, and after what shops do to pictures: none of these is a fault."""
    ad = paste(of.painted, of.placed)
    quality = int(rng.integers(60, 96))
    share = float(rng.uniform(0.6, 0.9))
    gains = rng.uniform(0.97, 1.03, 3)
    side = round(share * SIDE)
    small = ad.resize((side, side), Image.Resampling.LANCZOS)
    return {
        "as made": ad,
        "JPEG": _as_jpeg(ad, quality),
        "made smaller": small.resize(ad.size, Image.Resampling.BICUBIC),
        "warmer or cooler": Image.fromarray(np.clip(np.asarray(ad) * gains, 0, 255).astype(np.uint8)),
    }


def picture_faults(of: Sample, rng: np.random.Generator) -> dict[str, Image.Image]:
    """The ad with one fault each, all within what generators do."""
    ad = paste(of.painted, of.placed)
    opacity = of.placed.getchannel("A")
    faults = {
        "recoloured": paste(of.painted, _tinted(of.placed, rng)),
        "shifted": paste(of.painted, _shifted(of.placed, rng)),
        "other product": paste(of.painted, of.other),
        "blurred": Image.composite(ad.filter(ImageFilter.GaussianBlur(float(rng.uniform(1.2, 2.5)))), ad, opacity),
        "painted, not pasted": of.painted.resize(ad.size, Image.Resampling.BICUBIC),
        "low contrast": _washed(ad, of.placed, float(rng.uniform(0.80, 0.95))),
    }
    for shape in ("handle", "cable", "knob"):
        faults[f"attached {shape}"] = _attach(ad, of.placed, shape, _own_colour(of.placed), rng)
    colour = tuple(int(value) for value in rng.integers(30, 226, 3))
    faults["attached, other colour"] = _attach(ad, of.placed, str(rng.choice(["handle", "cable"])), colour, rng)
    return faults


def _as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _tinted(placed: Image.Image, rng: np.random.Generator) -> Image.Image:
    turn, share = rng.uniform(0, 2 * pi), rng.uniform(0.15, 0.35)
    colour = tuple(round(128 + 127 * cos(turn + third * 2 * pi / 3)) for third in range(3))
    tinted = Image.blend(placed.convert("RGB"), Image.new("RGB", placed.size, colour), float(share))
    tinted.putalpha(placed.getchannel("A"))
    return tinted


def _shifted(placed: Image.Image, rng: np.random.Generator) -> Image.Image:
    turn, far = rng.uniform(0, 2 * pi), rng.uniform(3, 9)
    return ImageChops.offset(placed, round(far * cos(turn)), round(far * sin(turn)))


def _washed(ad: Image.Image, placed: Image.Image, share: float) -> Image.Image:
    """The background brought near the product's own colour."""
    plain = Image.blend(ad, Image.new("RGB", ad.size, _own_colour(placed)), share)
    return Image.composite(ad, plain, placed.getchannel("A"))


def _own_colour(placed: Image.Image) -> tuple[int, ...]:
    """The product's most frequent colour."""
    pixels = np.asarray(placed)
    solid = pixels[pixels[..., 3] > 250][:, :3]
    _, which, count = np.unique(solid // 16, axis=0, return_inverse=True, return_counts=True)
    return tuple(int(value) for value in solid[which.ravel() == count.argmax()].mean(0))


def _attach(
    ad: Image.Image, placed: Image.Image, shape: str, colour: tuple[int, ...], rng: np.random.Generator
) -> Image.Image:
    """Something that is not the product's, behind it and touching its outline, with a little shading."""
    scale = 4  # drawn larger, for smooth edges
    opacity = placed.getchannel("A")
    box = opacity.point([255 * (value > 128) for value in range(256)]).getbbox()
    assert box is not None, "a sample's product is visible"
    right = bool(rng.random() < 0.5)
    row = int(rng.uniform(0.3, 0.7) * (box[3] - box[1])) + box[1]
    solid = np.flatnonzero(np.asarray(opacity)[row] > 128)
    x = int((solid.max() if right else solid.min()) if len(solid) else (box[2] if right else box[0])) * scale
    y, out = row * scale, 1 if right else -1
    size = max(box[2] - box[0], box[3] - box[1]) * scale
    mask = Image.new("L", (SIDE * scale, SIDE * scale))
    pen = ImageDraw.Draw(mask)
    if shape == "handle":
        r = size * float(rng.uniform(0.10, 0.16))
        pen.ellipse((x - r, y - r, x + r, y + r), outline=255, width=round(r * 0.4))
    elif shape == "knob":
        r = size * float(rng.uniform(0.06, 0.10))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        wave, end = float(rng.uniform(0.1, 0.3)) * size, size * float(rng.uniform(0.4, 0.7))
        steps = np.linspace(0, 1, 40)
        line = [(x + out * end * t - out * 4 * scale, y + wave * sin(2.5 * pi * t) + end * 0.4 * t) for t in steps]
        pen.line(line, fill=255, width=round(2.5 * scale), joint="curve")
    mask = ImageChops.subtract(mask.resize(ad.size, Image.Resampling.LANCZOS), opacity)
    shade = np.linspace(1.06, 0.90, SIDE)[:, None, None] * np.array(colour, np.float64)
    drawn = Image.fromarray(np.clip(np.broadcast_to(shade, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8))
    return Image.composite(drawn, ad, mask)


# Claims that no product of AdWorld makes, and wording that rules restrict; neither is taken from a pattern of ours.
INVENTED: Final = {
    "en": (
        "hand-carved walnut lid", "solar charging panel", "built-in water filter", "memory foam lining",
        "voice assistant support", "waterproof to great depths", "titanium plated hinges", "self-cleaning nozzle",
        "glow-in-the-dark logo", "lavender scent inside", "bulletproof glass front", "fits every car seat",
        "award-winning engineering", "grown by island farmers", "holds a full gallon", "ultrasonic insect repellent",
    ),
    "zh": (
        "手工雕花胡桃木盖", "太阳能充电", "内置净水滤芯", "记忆棉内衬", "语音助手操控", "深海级防水",
        "钛金镀层铰链", "喷嘴自动清洁",
        "夜光标志", "内含薰衣草香", "防弹玻璃面板", "适配所有车型", "屡获设计大奖", "海岛农户种植",
        "容量翻倍", "超声波驱虫",
    ),
}  # fmt: skip
RESTRICTED: Final = {
    "en": (
        "the world's best", "our #1 best seller", "clinically proven", "dermatologist recommended", "100% eco-friendly",
        "cures back pain", "money-back guarantee", "completely free of charge", "was $99, now $19", "lifetime warranty",
        "fda approved", "carbon neutral", "the finest on earth", "heals your skin overnight", "made in the usa",
        "kinder to nature than all others",
    ),
    "zh": (
        "国家级品质", "全网第一", "史上最低价", "三天美白", "根治失眠", "销量冠军",
        "最好用的选择", "100%有效", "无效退款", "顶级工艺",
        "领导人同款", "绝对安全", "永不褪色", "增强免疫力", "独家专利", "举世无双",
    ),
}  # fmt: skip
# As people write who do not keep to AdWorld's four manners; the connecting words are none of AdWorld's.
FREELY: Final = {
    "en": (
        "Meet the {name} with {first} and {second}.", "{first}, {second}: that is our {name}.",
        "Your new {name} comes with {first}. And {second}, too!", "For you: {name}, {second}, {first}",
        "Looking for a {name}? Enjoy {first} and {second}.", "{name} - {second} meets {first}",
    ),
    "zh": (
        "这款{name}，{first}，{second}。", "选{name}，享{first}与{second}！", "{name}来了：{first}，还有{second}",
        "为你准备的{name}，{second}，{first}", "给家人的{name}：{first}，也{second}", "爱上{name}，{second}，{first}",
    ),
}  # fmt: skip


def wordings(number: int, language: str, seed: int = 0) -> list[Wording]:
    """Texts about one product of AdWorld: in its own manners and more freely, then with one known fault each."""
    rng = np.random.default_rng([seed, number, LANGUAGES.index(language)])
    family = _family(number)
    variant = family.build(rng)
    points = words.selling_points(family.name, family.department, language, rng)
    about = words.description(family.name, family.department, variant.colour, variant.finish, language, rng)
    pick = lambda options: str(options[int(rng.integers(len(options)))])  # noqa: E731
    first, second = (points[i] for i in rng.permutation(np.arange(1, len(points)))[:2])
    say = lambda a, b: words.compose(points[0], a, b, pick(words.MANNERS), language)  # noqa: E731
    text = words.text(points, pick(words.KINDS), pick(words.MANNERS), language, rng)
    free = pick(FREELY[language]).format(name=points[0], first=first, second=second)
    full = f"{text}{' ' if language == 'en' else '。'}{about}"
    far = _family(number + 12)
    foreign = [p for p in words.selling_points(far.name, far.department, language, rng)[1:] if p not in points]
    comma = ", " if language == "en" else "，"
    texts = {
        ("", text), ("", free), ("", full),
        ("invented claim", say(first, pick(INVENTED[language]))),
        ("another product's point", say(first, pick(foreign))),
        ("changed number", _with_another_number(full, rng)),
        ("repeated phrase", f"{text}{comma}{first}{comma}{first}"),
        ("list of points", comma.join(points[i] for i in rng.permutation(len(points))[:7])),
        ("says little", pick(FREELY[language]).format(name=points[0], first="", second="")),
        ("restricted claim", f"{text}{comma}{pick(RESTRICTED[language])}"),
    }  # fmt: skip
    return [Wording(said, points, about, fault) for fault, said in sorted(texts)]


def _with_another_number(text: str, rng: np.random.Generator) -> str:
    """One number in digits changed by a tenth or more; descriptions of AdWorld always have one."""
    numbers = list(re.finditer(r"\d+", text))
    chosen = numbers[int(rng.integers(len(numbers)))]
    value = int(chosen[0])
    return text[: chosen.start()] + str(value + max(1, int(value * rng.uniform(0.1, 1)))) + text[chosen.end() :]
