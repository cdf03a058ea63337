"""Every knob once, with its meaning and its source (paper section, equation, release)."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

MODALITIES = ("image+text", "image", "text")
SAMPLERS = ("by_similarity", "at_random", "most_similar")


def _expect(condition: bool, name: str, got: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {got!r}, expected {expected}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model is shown."""

    image_size: int = 384  # px, picture to be painted and cut-out (paper section 5.1)
    click_size: int = 128  # px, history pictures (paper section 5.1)
    num_clicks: int = 10  # N, clicks shown (paper section 5.1, Table 3)
    click_words: int = 30  # T at most, tokens per clicked text (release)
    sampler: str = "by_similarity"  # Eq. 6; or at_random, most_similar (Table 4)
    modality: str = "image+text"  # Ours; or image (Ours-image), text (Ours-text), Table 1
    history_dropout: float = 0.1  # share of training rows without clicks, so that guidance works

    def __post_init__(self) -> None:
        _expect(self.modality in MODALITIES, "data.modality", self.modality, f"one of {', '.join(MODALITIES)}")
        _expect(self.sampler in SAMPLERS, "data.sampler", self.sampler, f"one of {', '.join(SAMPLERS)}")
        _expect(self.num_clicks >= 0, "data.num_clicks", self.num_clicks, "0 or more")
        _expect(0 <= self.history_dropout <= 1, "data.history_dropout", self.history_dropout, "a share in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of every part; the same class reads every row of `recipes`."""

    hidden_size: int = 4096  # D
    num_layers: int = 30
    num_heads: int = 32
    intermediate_size: int = 11008
    vocab_size: int = 102400  # V
    # vector-quantised pictures (Janus)
    num_codes: int = 16384  # Q
    code_size: int = 8
    vq_patch: int = 0  # 0: Janus' convolutions; else our small patch VQ, with cells of this many pixels (nano)
    vq_channels: int = 128
    vq_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
    vq_blocks: int = 2
    vq_latent: int = 256
    # SigLIP, the understanding encoder of Janus: part of its checkpoint, not used by our path
    siglip_size: int = 1024
    siglip_layers: int = 24
    siglip_heads: int = 16
    # foreground perception (Eq. 5)
    foreground_size: int = 384  # DINOv2-small
    foreground_layers: int = 12
    foreground_heads: int = 6
    foreground_channels: int = 3  # 3: composited on white, for pretrained DINOv2; 4: alpha is an input (nano)
    control_every: int = 4  # Eq. 5: added after layers l with l mod control_every = 0, l counted from 0
    control_strength: float = 1.0
    # multimodal preference extraction (Eq. 7, 8)
    keep_rate: float = 0.4  # share of tokens kept by top-K (paper section 5.1)
    extractor_layers: int = 2  # release
    fusion_layers: int = 4  # release
    preference_heads: int = 16  # release
    gumbel_scale: float = 1.0  # size of the noise in training; with cosine scores, 1 is mostly noise
    gumbel_at_inference: bool = False  # the release: True; False so that an ad can be replayed
    # the joint loss
    text_weight: float = 1.0  # lambda_text of Eq. 4
    image_weight: float = 1.0  # lambda_img of Eq. 4
    condition_dropout: float = 0.1  # share of training rows whose control is zero (release)
    code_dropout: float = (
        0.0  # share of training rows in which codes already painted are hidden, at a random rate (ours)
    )

    @property
    def downsample(self) -> int:
        """Pixels per image cell, along each side."""
        return self.vq_patch or 2 ** (len(self.vq_multiplier) - 1)

    def __post_init__(self) -> None:
        _expect(0 < self.keep_rate <= 1, "model.keep_rate", self.keep_rate, "a share in (0, 1]")
        for name in ("condition_dropout", "code_dropout"):
            _expect(0 <= getattr(self, name) <= 1, f"model.{name}", getattr(self, name), "a share in [0, 1]")
        for name in ("hidden_size", "foreground_size"):
            heads = self.num_heads if name == "hidden_size" else self.foreground_heads
            _expect(
                getattr(self, name) % heads == 0, f"model.{name}", getattr(self, name), f"a multiple of {heads} heads"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; the loop is the same for the VQ and for the model."""

    steps: int = 10000
    batch_size: int = 4  # paper section 5.1
    optimizer: str = "adamw"  # paper section 5.1; muon: Muon for the matrices of layers, AdamW for the rest
    learning_rate: float = 5e-5  # paper section 5.1
    warmup: int = 100  # steps of linear warm-up
    decay: float = 0.0  # last share of the steps over which the rate falls linearly to zero
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # gradient norm
    bfloat16: bool = True  # autocast of matrix products
    sample_every: int = 500  # steps between sample sheets
    save_every: int = 200  # steps between checkpoints
    seed: int = 0
    threads: int = 0  # torch threads; 0: as many as cores

    def __post_init__(self) -> None:
        _expect(0 <= self.decay <= 1, "train.decay", self.decay, "a share in [0, 1]")
        _expect(self.optimizer in ("adamw", "muon"), "train.optimizer", self.optimizer, "adamw or muon")
        _expect(self.steps > 0, "train.steps", self.steps, "more than 0")
        _expect(self.batch_size > 0, "train.batch_size", self.batch_size, "more than 0")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How an ad is sampled."""

    guidance: float = 5.0  # logits = u + guidance (c - u); 1 switches it off (release: 5)
    leave_out: str = "history"  # what the branch u does not see: history, product, or both
    temperature: float = 1.0
    text_top_k: int = 50  # release
    image_top_k: int = 0  # 0: the full softmax (release)
    max_words: int = 64  # tokens of text at most
    # What a text may hold besides the product's selling points; nothing else can then be written. Empty: the model is
    # only told so in its instruction (paper section 4.3.2).
    connecting_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _expect(
            self.leave_out in ("history", "product", "both"),
            "generate.leave_out",
            self.leave_out,
            "history, product or both",
        )
        _expect(self.guidance >= 1, "generate.guidance", self.guidance, "1 (off) or more")
        _expect(self.temperature >= 0, "generate.temperature", self.temperature, "0 (greedy) or more")


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """AdWorld: the shop that nano is trained on, and how noisy its shoppers are."""

    seed: int = 0  # the shop; held-out products and shoppers come from another seed
    held_out_seed: int = 1
    num_variants: int = 12  # products per family
    pictures_per_product: int = 20
    sample_noise: float = 0.15  # share of clicks off taste altogether (sample-level noise, Fig. 1(b))
    image_only: float = 0.2  # share of clicks driven by the picture alone (modal-level noise)
    text_only: float = 0.2  # share of clicks driven by the text alone
    home_share: float = 0.5  # share of a history's clicks that are in the target's department
    history_length: int = 16  # M
    languages: tuple[str, ...] = ("en", "en", "zh")  # a shopper reads one of these, evenly
    num_shoppers: int = 0  # shoppers met in training, over and over; 0: new ones without end


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one model: what it sees, what it is, how it is trained and sampled."""

    name: str
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    vq_train: TrainConfig | None = None  # set where the VQ is trained from scratch
    train: TrainConfig = field(default_factory=TrainConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    world: WorldConfig | None = None  # set where the data is AdWorld

    def __post_init__(self) -> None:
        cell = self.model.downsample
        for name in ("image_size", "click_size"):
            size = getattr(self.data, name)
            _expect(size % cell == 0, f"data.{name}", size, f"a multiple of {cell} (pixels per image cell)")

    @property
    def cells(self) -> int:
        """K, image cells of the picture to be painted."""
        return (self.data.image_size // self.model.downsample) ** 2

    @property
    def click_cells(self) -> int:
        """P, image tokens of one clicked picture."""
        return (self.data.click_size // self.model.downsample) ** 2

    def save(self, path: Path) -> None:
        """Writes the resolved config as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> "Config":
        """Reads what `save` wrote; an unknown or missing field is an error."""
        return _build(Config, json.loads(path.read_text()), path.name)


def replace_in(config: Config, **changes: Any) -> Config:
    """A copy with fields changed, e.g. `replace_in(c, data__num_clicks=0)` for `c.data.num_clicks`."""
    return override(config, {name.replace("__", "."): value for name, value in changes.items()})


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with dotted fields changed; strings are read as the field's type, as in `--set train.steps=50`.

    Raises `ValueError` for an unknown name (the nearest is offered) or a value that does not fit.
    """
    for path, value in changes.items():
        config = _replace(config, path, path.split("."), value)
    return config


def parse_overrides(settings: list[str]) -> dict[str, str]:
    """`["train.steps=50"]` -> `{"train.steps": "50"}`."""
    for setting in settings:
        if "=" not in setting:
            raise ValueError(f"got --set {setting}, expected name=value such as train.steps=50")
    return dict(setting.split("=", 1) for setting in settings)


def _replace(node: Any, path: str, names: list[str], value: Any) -> Any:
    known = [f.name for f in dataclasses.fields(node)]
    if names[0] not in known:
        raise ValueError(f"unknown setting {path!r}{nearest(names[0], known)}")
    old = getattr(node, names[0])
    if len(names) > 1:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"unknown setting {path!r}: {names[0]!r} has no fields here")
        return dataclasses.replace(node, **{names[0]: _replace(old, path, names[1:], value)})
    if dataclasses.is_dataclass(old):
        raise ValueError(
            f"{path!r} is a group, expected one of its fields: {path}.{dataclasses.fields(old)[0].name}, ..."
        )
    return dataclasses.replace(node, **{names[0]: _read(value, old, path)})


def _read(value: Any, old: Any, path: str) -> Any:
    if not isinstance(value, str) or isinstance(old, str):
        return value
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[value.lower()]
        if isinstance(old, tuple):
            return tuple(type(old[0])(part) for part in value.strip("()").split(","))
        return type(old)(value)
    except (KeyError, ValueError):
        raise ValueError(f"{path} is {value!r}, expected {type(old).__name__} such as {old!r}") from None


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean 'x'?` and the list of known names, to end an error message with."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(sorted(known))})"


def _build(kind: Any, values: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    if set(values) != names:
        wrong = sorted(set(values) ^ names)
        raise ValueError(f"{where}: the fields {wrong} are missing or unknown: this file belongs to another version")
    built = {}
    for name, value in values.items():
        inner = next(
            (t for t in (hints[name], *getattr(hints[name], "__args__", ())) if dataclasses.is_dataclass(t)), None
        )
        if isinstance(value, dict) and inner is not None:
            value = _build(inner, value, f"{where}: {name}")
        built[name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)
