"""Every knob once, with its meaning and its source (paper section, equation, release)."""

import dataclasses
import datetime
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

MODALITIES = ("image+text", "image", "text")
VARIANTS = ("paper", "release")
SAMPLERS = ("by_similarity", "at_random", "most_similar", "release")
Settings = TypeVar("Settings", bound="Config | PBSConfig | DatasetConfig | PrepareConfig")
Saved = TypeVar("Saved", bound="Recipe")


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
    sampler: str = "by_similarity"  # Eq. 6; or at_random, most_similar (Table 4), release (the authors' code)
    modality: str = "image+text"  # Ours; or image (Ours-image), text (Ours-text), Table 1
    history_dropout: float = 0.1  # share of training rows without clicks, so that guidance works

    def __post_init__(self) -> None:
        _expect(self.modality in MODALITIES, "data.modality", self.modality, f"one of {', '.join(MODALITIES)}")
        _expect(self.sampler in SAMPLERS, "data.sampler", self.sampler, f"one of {', '.join(SAMPLERS)}")
        _expect(self.num_clicks >= 0, "data.num_clicks", self.num_clicks, "0 or more")
        for name in ("image_size", "click_size", "click_words"):
            _expect(getattr(self, name) > 0, f"data.{name}", getattr(self, name), "more than 0")
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
    variant: str = "paper"  # or release: our two modules as the authors' code has them, where it differs from the paper
    # foreground perception (Eq. 5)
    foreground_size: int = 384  # DINOv2-small
    foreground_layers: int = 12
    foreground_heads: int = 6
    foreground_channels: int = 3  # 3: composited on white, for pretrained DINOv2; 4: alpha is an input (nano)
    control_every: int = 4  # Eq. 5: added after layers l with l mod control_every = 0, l counted from 0
    control_strength: float = 1.0  # when an ad is made; in training it is 1 (release: 1.5)
    # multimodal preference extraction (Eq. 7, 8)
    keep_rate: float = 0.4  # share of tokens kept by top-K (paper section 5.1)
    compact: bool = False  # tokens not kept leave the prompt; else they stay, zeroed before the fusion (release) (ours)
    extractor_layers: int = 2  # release; 0: nothing is selected or fused (Table 2, w/ history and w/ PSS)
    fusion_layers: int = 4  # release; 0 as well then
    preference_heads: int = 16  # release
    preference_control: bool = False  # the preference tokens also enter as a control, as Eq. 5 does (ours)
    word_preference: int = 0  # width of the vectors by which words like those clicked become likelier (ours); 0: none
    gumbel_scale: float = 1.0  # size of the noise in training; with cosine scores, 1 is mostly noise
    gumbel_at_inference: bool = False  # the release: True; False so that an ad can be replayed
    # trained parallel decoding (ours): a row of cells begins so many cells after the one above it, and a step paints
    # the next cell of every row that has begun; 0: one cell after the other
    row_lag: int = 0
    # what is trained on a base
    lora_rank: int = 12  # LoRA on q, k, v, o of the language model (paper section 5.1; release: 16); 0: from scratch
    lora_alpha: int = 32  # paper section 5.1
    # the joint loss
    text_weight: float = 1.0  # lambda_text of Eq. 4
    image_weight: float = 1.0  # lambda_img of Eq. 4
    first_cells_weight: float = 0.0  # extra weight of a picture's first cells in its loss, fading after a row (ours)
    condition_dropout: float = 0.1  # share of training rows whose control is zero (release)
    code_dropout: float = (
        0.0  # share of training rows in which codes already painted are hidden, at a random rate (ours)
    )

    @property
    def downsample(self) -> int:
        """Pixels per image cell, along each side."""
        return self.vq_patch or 2 ** (len(self.vq_multiplier) - 1)

    def __post_init__(self) -> None:
        _expect(self.variant in VARIANTS, "model.variant", self.variant, f"one of {', '.join(VARIANTS)}")
        both = self.variant == "release" and self.preference_control
        _expect(not both, "model.preference_control", True, "false in the variant release, which has no such part")
        off = self.extractor_layers == 0
        wanted = "0, as model.extractor_layers" if off else "more than 0, as model.extractor_layers"
        _expect((self.fusion_layers == 0) == off, "model.fusion_layers", self.fusion_layers, wanted)
        both = self.variant == "release" and off
        _expect(not both, "model.extractor_layers", 0, "more than 0 in the variant release")
        _expect(not (self.compact and off), "model.compact", True, "false where model.extractor_layers is 0")
        _expect(self.word_preference >= 0, "model.word_preference", self.word_preference, "0 (none) or more")
        both = self.word_preference and (self.lora_rank or self.variant == "release")
        _expect(not both, "model.word_preference", self.word_preference, "0: only training from scratch learns it")
        _expect(0 < self.keep_rate <= 1, "model.keep_rate", self.keep_rate, "a share in (0, 1]")
        for name in ("condition_dropout", "code_dropout"):
            _expect(0 <= getattr(self, name) <= 1, f"model.{name}", getattr(self, name), "a share in [0, 1]")
        _expect(self.first_cells_weight >= 0, "model.first_cells_weight", self.first_cells_weight, "0 (off) or more")
        _expect(self.row_lag >= 0, "model.row_lag", self.row_lag, "0 (one cell after the other) or more")
        both = self.row_lag and self.variant == "release"
        _expect(not both, "model.row_lag", self.row_lag, "0 in the variant release, which paints cell after cell")
        _expect(self.vq_patch % 4 == 0, "model.vq_patch", self.vq_patch, "a multiple of 4 pixels, or 0")
        _expect(self.num_layers > 1, "model.num_layers", self.num_layers, "2 or more, so that the control enters")
        _expect(self.lora_rank >= 0, "model.lora_rank", self.lora_rank, "0 (all is trained) or more")
        for name in ("num_heads", "foreground_heads", "control_every"):
            _expect(getattr(self, name) > 0, f"model.{name}", getattr(self, name), "more than 0")
        for name in ("hidden_size", "foreground_size"):
            heads = self.num_heads if name == "hidden_size" else self.foreground_heads
            _expect(
                getattr(self, name) % heads == 0, f"model.{name}", getattr(self, name), f"a multiple of {heads} heads"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; the loop is the same for the VQ and for the model."""

    steps: int = 10000
    batch_size: int = 4  # rows of a step, over all processes (paper section 5.1)
    rows_at_once: int = 0  # rows that a process works on at once; the gradients of a step are added up. 0: all its rows
    optimizer: str = "adamw"  # paper section 5.1; muon: Muon for the matrices of layers, AdamW for the rest
    learning_rate: float = 5e-5  # paper section 5.1
    warmup: int = 100  # steps of linear warm-up
    decay: float = 0.0  # last share of the steps over which the rate falls linearly to zero
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # gradient norm
    bfloat16: bool = True  # autocast of matrix products
    checkpointing: bool = False  # recompute each layer in the backward pass: less memory, a third more arithmetic
    dry_run: bool = False  # only say what would be trained and what memory it takes
    report_to: str = ""  # also log to a tracker of accelerate: tensorboard, wandb, mlflow, ...
    sample_every: int = 500  # steps between sample sheets
    save_every: int = 200  # steps between checkpoints
    seed: int = 0
    threads: int = 0  # torch threads; 0: as many as cores
    # Processes that make batches ahead of their step; 0: none; -1: some beside a GPU, none elsewhere. Nothing that is
    # learnt depends on it, so a run may go on with another number.
    workers: int = field(default=-1, compare=False)

    def __post_init__(self) -> None:
        _expect(0 <= self.decay <= 1, "train.decay", self.decay, "a share in [0, 1]")
        _expect(self.optimizer in ("adamw", "muon"), "train.optimizer", self.optimizer, "adamw or muon")
        for name in ("steps", "batch_size", "learning_rate", "clip", "sample_every", "save_every"):
            _expect(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "more than 0")
        for name in ("warmup", "weight_decay", "threads", "rows_at_once"):
            _expect(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        _expect(self.workers >= -1, "train.workers", self.workers, "0 (none) or more, or -1")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How an ad is sampled."""

    guidance: float = 5.0  # logits = u + guidance (c - u); 1 switches it off (release: 5)
    leave_out: str = "history"  # what the branch u does not see: history, product, or both
    temperature: float = 1.0
    text_top_k: int = 50  # release
    image_top_k: int = 0  # 0: the full softmax (release)
    guidance_until: float = 1.0  # share of a picture's cells that are guided, the first ones (ours)
    skip_product: bool = False  # cells inside the product get the codes of its own picture and are not sampled (ours)
    skip_margin: int = 0  # cells taken off the product's outline before: what the VQ sees around a cell (ours)
    max_words: int = 64  # tokens of text at most
    # What a text may hold besides the product's selling points; nothing else can then be written. Empty: the model is
    # only told so in its instruction (paper section 4.3.2). ASCII words serve English texts, others Chinese ones.
    connecting_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _expect(
            self.leave_out in ("history", "product", "both"),
            "generate.leave_out",
            self.leave_out,
            "history, product or both",
        )
        _expect(1 <= self.guidance < math.inf, "generate.guidance", self.guidance, "1 (off) or more")
        _expect(self.max_words > 0, "generate.max_words", self.max_words, "more than 0")
        until = self.guidance_until
        _expect(0 <= until <= 1, "generate.guidance_until", until, "a share in [0, 1], 1 for the whole picture")
        _expect(self.skip_margin >= 0, "generate.skip_margin", self.skip_margin, "0 cells or more")
        for name in ("text_top_k", "image_top_k"):
            _expect(getattr(self, name) >= 0, f"generate.{name}", getattr(self, name), "0 (all) or more")
        _expect(self.temperature >= 0, "generate.temperature", self.temperature, "0 (greedy) or more")

    def guided_cells(self, cells: int) -> int:
        """How many of a picture's cells are guided: the first ones."""
        return math.ceil(self.guidance_until * cells)


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

    def __post_init__(self) -> None:
        for name in ("num_variants", "pictures_per_product"):
            _expect(getattr(self, name) > 0, f"world.{name}", getattr(self, name), "more than 0")
        for name in ("seed", "held_out_seed", "history_length", "num_shoppers"):
            _expect(getattr(self, name) >= 0, f"world.{name}", getattr(self, name), "0 or more")
        for name in ("sample_noise", "image_only", "text_only", "home_share"):
            _expect(0 <= getattr(self, name) <= 1, f"world.{name}", getattr(self, name), "a share in [0, 1]")
        noise = self.sample_noise + self.image_only + self.text_only
        _expect(noise <= 1, "world.sample_noise + image_only + text_only", noise, "at most 1 in all")
        known = bool(self.languages) and set(self.languages) <= {"en", "zh"}
        _expect(known, "world.languages", self.languages, "some of en, zh")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How a click log becomes a dataset (paper section 3.1)."""

    seed: int = 0  # draws every user's target and split
    min_clicks: int = 6  # different creatives a user must have clicked; PAd1M's own loader crashes below (release)
    max_history: int = 100  # M, most recent clicks kept; 0: all, as in the paper
    history_scope: str = "all"  # the other clicks (paper section 3.1), or before_target: only earlier ones, no future
    validation_share: float = 0.01  # shares of users (ours; the paper states none)
    test_share: float = 0.01
    click_event: str = "click"  # what the column event says of a click
    time_unit: str = "s"  # of timestamps that are plain numbers: s, ms or us since 1970
    earliest: str = "2000-01-01"  # clicks before it are impossible: clocks that were never set
    latest: str = "2038-01-01"  # so are clicks at or after it
    max_characters: int = 2000  # of a text, description or selling point; rows with longer ones are dropped
    points_separator: str = "|"  # between selling points where they are one text and no list
    deny_categories: tuple[str, ...] = ()  # products of these categories, and all that hangs on them, stay out
    min_users: int = 1  # k-anonymity: creatives clicked by fewer users are dropped; 1: off
    pictures: str = "check"  # decode every picture and drop creatives whose picture is broken; or skip
    allow_hosts: tuple[str, ...] = ()  # hosts from which pictures may be fetched over http(s); no other is asked
    max_picture_bytes: int = 20_000_000
    picture_timeout: float = 20.0  # s
    picture_tries: int = 3
    max_broken: float = 0.1  # share of malformed rows of a table above which the build stops
    rows_per_task: int = 1_000_000  # rows held in memory by one task that reads the log
    rows_per_bucket: int = 500_000  # log rows, on average, that one select task reads
    memory_mb: int = 400  # DuckDB's limit in a select task; beyond it, it spills to disk

    def __post_init__(self) -> None:
        scopes = ("all", "before_target")
        _expect(self.history_scope in scopes, "build.history_scope", self.history_scope, f"one of {', '.join(scopes)}")
        _expect(self.time_unit in ("s", "ms", "us"), "build.time_unit", self.time_unit, "s, ms or us")
        _expect(self.pictures in ("check", "skip"), "build.pictures", self.pictures, "check or skip")
        _expect(self.min_clicks >= 2, "build.min_clicks", self.min_clicks, "2 or more: a target and a history")
        shares = self.validation_share + self.test_share
        _expect(min(self.validation_share, self.test_share) >= 0, "build.validation_share, test_share", shares, "0..1")
        _expect(shares <= 1, "build.validation_share + test_share", shares, "at most 1")
        _expect(0 <= self.max_broken <= 1, "build.max_broken", self.max_broken, "a share in [0, 1]")
        for name in ("seed", "max_history"):
            _expect(getattr(self, name) >= 0, f"build.{name}", getattr(self, name), "0 or more")
        for name in ("min_users", "max_characters", "max_picture_bytes", "picture_timeout", "picture_tries"):
            _expect(getattr(self, name) > 0, f"build.{name}", getattr(self, name), "more than 0")
        for name in ("rows_per_task", "rows_per_bucket"):
            _expect(getattr(self, name) > 0, f"build.{name}", getattr(self, name), "more than 0")
        _expect(self.memory_mb >= 100, "build.memory_mb", self.memory_mb, "100 or more")
        for name in ("earliest", "latest"):
            _expect(_is_date(getattr(self, name)), f"build.{name}", getattr(self, name), "a date such as 2024-01-31")
        _expect(self.earliest < self.latest, "build.earliest", self.earliest, f"before build.latest, {self.latest}")


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class EventColumns:
    """What the columns of one's own event table are called."""

    user_id: str = "user_id"
    creative_id: str = "creative_id"
    timestamp: str = "timestamp"
    event: str = "event"  # empty: there is no such column, every row is a click


@dataclass(frozen=True, kw_only=True)
class CreativeColumns:
    """What the columns of one's own table of creatives are called."""

    creative_id: str = "creative_id"
    product_id: str = "product_id"
    image: str = "image"
    text: str = "text"


@dataclass(frozen=True, kw_only=True)
class ProductColumns:
    """What the columns of one's own table of products are called."""

    product_id: str = "product_id"
    description: str = "description"
    selling_points: str = "selling_points"
    image: str = "image"  # a transparent picture, where there is one; the column may be missing
    category: str = "category"  # the column may be missing


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Everything about one dataset; no part of a model's `Config`."""

    build: BuildConfig = field(default_factory=BuildConfig)
    events: EventColumns = field(default_factory=EventColumns)
    creatives: CreativeColumns = field(default_factory=CreativeColumns)
    products: ProductColumns = field(default_factory=ProductColumns)

    @staticmethod
    def of(values: Mapping[str, Any], where: str) -> "DatasetConfig":
        """The config whose fields `dataclasses.asdict` gave; a field unknown or missing is an error at `where`."""
        return _build(DatasetConfig, values, where)


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """What models and checks make of a dataset that was built (paper sections 3.1 and 4.3.2)."""

    cleaning: str = "rule"  # targets whose text the selling points do not support go: by rule, llm, or not at all: off
    max_unsupported: float = 0.0  # rule: share of a text's words that no selling point has, at most
    llm_url: str = ""  # llm: an OpenAI-compatible server, such as http://localhost:8000/v1
    llm_model: str = ""  # its name there; a key, if it wants one, is read from the environment: UNIADGEN_LLM_KEY
    texts_per_request: int = 10
    requests_at_once: int = 8
    llm_timeout: float = 120.0  # s
    llm_tries: int = 5  # of a request that the server is too busy for
    price_in: float = 0.0  # of a million tokens read, in any currency, for --dry-run
    price_out: float = 0.0  # of a million tokens written
    cutout: str = "given"  # only the shop's own transparent pictures; grounded_sam for products without; or off
    prompt: str = ""  # what the detector looks for; empty: the product's category, or its description's first words
    detector: str = "IDEA-Research/grounding-dino-tiny"  # a folder, or an id of the Hugging Face Hub
    segmenter: str = "facebook/sam-vit-base"  # likewise; the paper says Grounded SAM, but not which sizes
    min_confidence: float = 0.3  # of the detector; below it there is no product in the picture
    cutout_size: int = 768  # px, longest side of a cut-out that is made; the shop's own stay as they are
    encoder: str = ""  # of sentences, a folder or an id; empty: the built-in bag of words
    batch_size: int = 8  # pictures, or eight times as many texts, that a model sees at once
    items_per_task: int = 256  # results in one shard; a kill loses no more of each process

    def __post_init__(self) -> None:
        cleanings, cutouts = ("rule", "llm", "off"), ("given", "grounded_sam", "off")
        _expect(self.cleaning in cleanings, "stages.cleaning", self.cleaning, f"one of {', '.join(cleanings)}")
        _expect(self.cutout in cutouts, "stages.cutout", self.cutout, f"one of {', '.join(cutouts)}")
        for name in ("max_unsupported", "min_confidence"):
            _expect(0 <= getattr(self, name) <= 1, f"stages.{name}", getattr(self, name), "a share in [0, 1]")
        for name in ("price_in", "price_out"):
            _expect(getattr(self, name) >= 0, f"stages.{name}", getattr(self, name), "0 or more")
        for name in ("texts_per_request", "requests_at_once", "llm_timeout", "llm_tries", "batch_size"):
            _expect(getattr(self, name) > 0, f"stages.{name}", getattr(self, name), "more than 0")
        _expect(self.items_per_task > 0, "stages.items_per_task", self.items_per_task, "more than 0")
        _expect(self.cutout_size >= 8, "stages.cutout_size", self.cutout_size, "8 or more")
        if self.cleaning == "llm":
            web = self.llm_url.startswith(("http://", "https://"))
            _expect(web, "stages.llm_url", self.llm_url, "the address of a server, such as http://localhost:8000/v1")
            _expect(bool(self.llm_model), "stages.llm_model", self.llm_model, "the name of a model on that server")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Everything about the stages that follow a build; how pictures are fetched is the build's own config."""

    stages: StagesConfig = field(default_factory=StagesConfig)


class Recipe:
    """A config that a run keeps in its folder, as JSON."""

    def save(self, path: Path) -> None:
        """Writes the resolved config, aside and then renamed: a kill leaves no half of it."""
        assert dataclasses.is_dataclass(self)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls: type[Saved], path: Path) -> Saved:
        """Reads what `save` wrote, now or in an earlier version: a field that is missing has its default.

        So a new knob's default is always what was done before there was one. An unknown field is an error.
        """
        return _build(cls, json.loads(path.read_text()), path.name)


@dataclass(frozen=True, kw_only=True)
class Config(Recipe):
    """Everything about one model: what it sees, what it is, how it is trained and sampled."""

    name: str
    base: str = ""  # fingerprint of the weights that training from scratch begins from instead; --base sets it
    distilled: float = 0.0  # guidance of the base, whose guided scores are learnt so that one branch will do; 0: none
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    vq_train: TrainConfig | None = None  # set where the VQ is trained from scratch
    words_train: TrainConfig | None = None  # how model.word_preference is learnt, after all else (ours)
    train: TrainConfig = field(default_factory=TrainConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    world: WorldConfig | None = None  # set where the data is AdWorld

    def __post_init__(self) -> None:
        cell = self.model.downsample
        for name in ("image_size", "click_size"):
            size = getattr(self.data, name)
            _expect(size % cell == 0, f"data.{name}", size, f"a multiple of {cell} (pixels per image cell)")
        side = self.data.image_size // cell
        _expect(self.model.row_lag <= side, "model.row_lag", self.model.row_lag, f"at most the {side} cells of a row")
        alone = self.model.word_preference and self.words_train is None
        _expect(
            not alone, "words_train", None, "how to train, since model.word_preference is learnt in a stage of its own"
        )
        _expect(self.distilled >= 0, "distilled", self.distilled, "0 (none), or the base's generate.guidance")
        if self.distilled:
            _expect(self.generate.guidance == 1, "generate.guidance", self.generate.guidance, "1 where it is distilled")
        if self.model.variant == "release":  # a text, freely written, then a picture with that text in its prompt
            both = self.data.modality == "image+text"
            _expect(both, "data.modality", self.data.modality, "image+text in the variant release")
            words = self.generate.connecting_words
            _expect(not words, "generate.connecting_words", words, "none in the variant release, which writes freely")

    @property
    def cells(self) -> int:
        """K, image cells of the picture to be painted."""
        return (self.data.image_size // self.model.downsample) ** 2

    @property
    def click_cells(self) -> int:
        """P, image tokens of one clicked picture."""
        return (self.data.click_size // self.model.downsample) ** 2


@dataclass(frozen=True, kw_only=True)
class PBSModelConfig(Recipe):
    """The network of PBS, and how it looks at a picture; the defaults are the authors' (ViT-B/16)."""

    resize: int = 256  # px, shorter side; then the middle is cut out (release)
    image_size: int = 224  # px, side of that middle
    patch_size: int = 16
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    features: int = 64  # what the trunk's output is compressed to (release)

    def __post_init__(self) -> None:
        size, patch = self.image_size, self.patch_size
        for name in ("patch_size", "num_layers", "num_heads", "intermediate_size", "features"):
            _expect(getattr(self, name) > 0, f"model.{name}", getattr(self, name), "more than 0")
        _expect(size > 0 and size % patch == 0, "model.image_size", size, f"a multiple of {patch} (pixels per patch)")
        _expect(self.resize >= size, "model.resize", self.resize, f"at least model.image_size, {size}")
        width, heads = self.hidden_size, self.num_heads
        _expect(width > 0 and width % heads == 0, "model.hidden_size", width, f"a multiple of {heads} heads")


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """What PBS learns from: groups of pictures of one product, each told from the others by its background.

    The release has no training script; what it leaves open is MoCo v3's (arXiv 2104.02057) or ours, as said.
    """

    pair_num: int = 3  # pictures of one product in a group (release; the paper speaks of pairs, which is 2)
    temperature: float = 1.0  # T (release)
    momentum: float = 0.99  # of the encoder that follows (MoCo v3; the release leaves it open)
    hidden_size: int = 4096  # of projector and predictor (release)
    train_trunk: bool = False  # the release's builder freezes it
    in_batch_negatives: bool = False  # also tell a picture from other groups' (release: commented out)
    # the two views of a picture
    min_crop: float = 0.08  # share of its area, at least (MoCo v3)
    flip: float = 0.5  # probability, likewise the next two, for the first and the second view
    blur: tuple[float, float] = (1.0, 0.1)  # sigma of 0.1 to 2 pixels of 224 (release)
    solarise: tuple[float, float] = (0.0, 0.2)  # (MoCo v3)
    # MoCo v3 also changes colours. Much of that would teach PBS to ignore a background's.
    colour_jitter: float = 0.0  # its strength; MoCo v3's is 1
    grey: float = 0.0  # probability (MoCo v3: 0.2)
    other_product: float = 0.0  # share of second views of other products in the same style; AdWorld only (ours)

    def __post_init__(self) -> None:
        _expect(self.pair_num >= 2, "contrast.pair_num", self.pair_num, "2 or more, so that there is a negative")
        _expect(self.hidden_size > 0, "contrast.hidden_size", self.hidden_size, "more than 0")
        _expect(self.temperature > 0, "contrast.temperature", self.temperature, "more than 0")
        _expect(0 < self.min_crop <= 1, "contrast.min_crop", self.min_crop, "a share in (0, 1]")
        for name in ("momentum", "flip", "colour_jitter", "grey", "other_product"):
            _expect(0 <= getattr(self, name) <= 1, f"contrast.{name}", getattr(self, name), "a share in [0, 1]")
        for name in ("blur", "solarise"):
            shares = getattr(self, name)
            both = len(shares) == 2 and all(0 <= share <= 1 for share in shares)
            _expect(both, f"contrast.{name}", shares, "two shares in [0, 1], one for each view")


@dataclass(frozen=True, kw_only=True)
class PBSConfig(Recipe):
    """Everything about one training of PBS (paper section 3)."""

    name: str
    model: PBSModelConfig = field(default_factory=PBSModelConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    world: WorldConfig | None = None  # set where the pictures are AdWorld's
    picture_size: int = 144  # px, of AdWorld's pictures: with nano's, one stock serves both

    def __post_init__(self) -> None:
        rows, group = self.train.batch_size, self.contrast.pair_num
        _expect(rows % group == 0, "train.batch_size", rows, f"a multiple of contrast.pair_num, {group}")
        _expect(self.train.rows_at_once == 0, "train.rows_at_once", self.train.rows_at_once, "0 for PBS")
        _expect(not self.train.checkpointing, "train.checkpointing", self.train.checkpointing, "false for PBS")
        _expect(self.picture_size >= 8, "picture_size", self.picture_size, "8 or more")
        other = self.contrast.other_product
        _expect(self.world is not None or other == 0, "contrast.other_product", other, "0 where world is not set")
        shoppers = 0 if self.world is None else self.world.num_shoppers
        _expect(shoppers == 0, "world.num_shoppers", shoppers, "0 for PBS, which needs every picture of a product")


def replace_in(config: Config, **changes: Any) -> Config:
    """A copy with fields changed, e.g. `replace_in(c, data__num_clicks=0)` for `c.data.num_clicks`."""
    return override(config, {name.replace("__", "."): value for name, value in changes.items()})


def override(config: Settings, changes: Mapping[str, Any]) -> Settings:
    """A copy with dotted fields changed; strings are read as the field's type, as in `--set train.steps=50`.

    Raises `ValueError` for an unknown name (the nearest is offered) or a value that does not fit.
    """
    values = {tuple(path.split(".")): _find(config, path, value) for path, value in changes.items()}
    return _rebuild(config, values)


def parse_overrides(settings: list[str]) -> dict[str, str]:
    """`["train.steps=50"]` -> `{"train.steps": "50"}`."""
    for setting in settings:
        if "=" not in setting:
            raise ValueError(f"got --set {setting}, expected name=value such as train.steps=50")
    return dict(setting.split("=", 1) for setting in settings)


def _find(config: Any, path: str, value: Any) -> Any:
    """The value that the field at a path is to have."""
    node: Any = config
    *groups, leaf = path.split(".")
    for name in groups:
        node = getattr(node, _known(node, name, path))
        if not dataclasses.is_dataclass(node):
            raise ValueError(f"unknown setting {path!r}: {name!r} has no fields here")
    hint = get_type_hints(type(node))[_known(node, leaf, path)]
    group = next((t for t in (hint, *get_args(hint)) if dataclasses.is_dataclass(t)), None)
    if group is not None:
        first = dataclasses.fields(group)[0].name
        raise ValueError(f"{path!r} is a group, expected one of its fields: {path}.{first}, ...")
    return _read(value, hint, getattr(node, leaf), path)


def _known(node: Any, name: str, path: str) -> str:
    known = [f.name for f in dataclasses.fields(node)]
    if name not in known:
        raise ValueError(f"unknown setting {path!r}{nearest(name, known)}")
    return name


def _rebuild(node: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    """A copy of a dataclass with all values in place at once, so that only the whole is validated."""
    leaves = {names[0]: value for names, value in values.items() if len(names) == 1}
    groups = {names[0] for names in values if len(names) > 1}
    inner = {
        group: _rebuild(getattr(node, group), {n[1:]: v for n, v in values.items() if n[0] == group})
        for group in groups
    }
    return dataclasses.replace(node, **leaves, **inner)


def _read(value: Any, hint: Any, old: Any, path: str) -> Any:
    if not isinstance(value, str) or hint is str:
        return value
    try:
        if hint is bool:
            return {"true": True, "false": False}[value.lower()]
        if get_origin(hint) is tuple:
            return tuple(get_args(hint)[0](part.strip()) for part in value.strip("()").split(","))
        return hint(value)
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
    none = dataclasses.MISSING
    needed = {f.name for f in dataclasses.fields(kind) if f.default is none and f.default_factory is none}
    if not isinstance(values, dict):
        raise ValueError(f"{where}: got {values!r}, expected an object with the fields {sorted(names)}")
    if lacking := sorted(needed - set(values)):
        raise ValueError(f"{where}: the fields {lacking} are missing: this file is damaged, or of something else")
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{where}: the fields {unknown} are unknown: this file belongs to a newer version")
    built = {}
    for name, value in values.items():
        inner = next(
            (t for t in (hints[name], *getattr(hints[name], "__args__", ())) if dataclasses.is_dataclass(t)), None
        )
        if isinstance(value, dict) and inner is not None:
            value = _build(inner, value, f"{where}: {name}")
        built[name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)
