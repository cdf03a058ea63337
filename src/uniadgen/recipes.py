"""nano and its ablations, paper_1b, paper_7b, official_7b: functions that return a Config."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from uniadgen.config import (
    Config,
    ContrastConfig,
    DataConfig,
    GenerateConfig,
    ModelConfig,
    PBSConfig,
    PBSModelConfig,
    TrainConfig,
    WorldConfig,
    nearest,
    replace_in,
)


def nano() -> Config:
    """Our own small model, trained from scratch on AdWorld on 2 cores."""
    return Config(
        name="nano",
        data=DataConfig(image_size=144, click_size=48, num_clicks=6, click_words=16, history_dropout=0.15),
        model=ModelConfig(
            hidden_size=256,
            num_layers=8,
            num_heads=4,
            intermediate_size=704,
            vocab_size=4096,
            num_codes=4096,
            vq_patch=12,
            vq_channels=256,
            vq_blocks=5,
            vq_latent=64,
            siglip_size=16,
            siglip_layers=1,
            siglip_heads=1,
            foreground_size=192,
            foreground_layers=3,
            foreground_heads=3,
            foreground_channels=4,
            control_every=2,
            extractor_layers=1,
            fusion_layers=1,
            preference_heads=4,
            preference_control=True,
            word_preference=48,
            gumbel_scale=0.1,
            first_cells_weight=20.0,
            code_dropout=0.25,
            lora_rank=0,
        ),
        vq_train=TrainConfig(
            steps=4400, batch_size=12, optimizer="muon", learning_rate=3e-3, warmup=50, decay=0.6, sample_every=500
        ),
        train=TrainConfig(
            steps=3700,
            batch_size=8,
            optimizer="muon",
            learning_rate=2e-3,
            warmup=30,
            decay=0.6,
            weight_decay=0.05,
            sample_every=200,
            save_every=100,
        ),
        words_train=TrainConfig(
            steps=600, batch_size=16, learning_rate=5e-3, warmup=1, decay=0.5, weight_decay=0.0, save_every=100
        ),
        generate=GenerateConfig(
            guidance=2.0,
            image_top_k=100,
            text_top_k=10,
            max_words=48,
            connecting_words=("and", "now", "with", "plus", ",", ":", "!", "与", "现有", "更有", "，", "：", "！"),
        ),
        world=WorldConfig(),
    )


def nano_pss() -> Config:
    """Table 2, "w/ PSS": clicks by product similarity, but nothing extracted from them."""
    without = replace_in(
        nano(),
        name="nano_pss",
        model__extractor_layers=0,
        model__fusion_layers=0,
        model__preference_control=False,
        model__word_preference=0,
    )
    return replace(without, words_train=None)


def nano_history() -> Config:
    """Table 2, "w/ history": clicks at random, nothing extracted from them."""
    return replace_in(nano_pss(), name="nano_history", data__sampler="at_random")


def nano_baseline() -> Config:
    """Table 2, "Baseline", and Table 3, length 0: no history. In Table 1 it is "Ours", the general model."""
    return replace_in(nano_pss(), name="nano_baseline", data__num_clicks=0)


def nano_image() -> Config:
    """Table 1, "Ours-image": pictures alone."""
    return replace_in(nano_baseline(), name="nano_image", data__modality="image")


def nano_text() -> Config:
    """Table 1, "Ours-text": texts alone."""
    return replace_in(nano_baseline(), name="nano_text", data__modality="text")


def nano_at_random() -> Config:
    """Table 4, "Random Sampling": the full model, its clicks at random."""
    return replace_in(nano(), name="nano_at_random", data__sampler="at_random")


def nano_most_similar() -> Config:
    """Table 4, "Most-similar Sampling": the full model, the most similar clicks."""
    return replace_in(nano(), name="nano_most_similar", data__sampler="most_similar")


def nano_clicks(number: int) -> Config:
    """Table 3: the full model with histories of another length."""
    return replace_in(nano(), name=f"nano_{number}_clicks", data__num_clicks=number)


def nano_compact() -> Config:
    """Ours: the click tokens that are not kept leave the prompt, instead of staying there zeroed."""
    return replace_in(nano(), name="nano_compact", model__compact=True)


def nano_distilled() -> Config:
    """Ours, from nano's weights: one branch says what guidance makes of two, so that a step reads one row."""
    return replace_in(
        nano(),
        name="nano_distilled",
        distilled=nano().generate.guidance,
        generate__guidance=1.0,
        train__steps=300,
        train__learning_rate=5e-4,
    )


def nano_parallel() -> Config:
    """Ours, from nano's weights: as nano_distilled, in a compact prompt, and with staggered rows of cells."""
    return replace_in(nano_distilled(), name="nano_parallel", model__compact=True, model__row_lag=2, train__steps=320)


def paper_7b() -> Config:
    """Janus-Pro-7B with our modules, as in paper section 5.1."""
    return Config(
        name="paper_7b",
        train=TrainConfig(learning_rate=5e-5, batch_size=4, rows_at_once=1, checkpointing=True),
    )


def paper_1b() -> Config:
    """Janus-Pro-1B with our modules, otherwise as paper_7b."""
    return replace_in(
        paper_7b(),
        name="paper_1b",
        model__hidden_size=2048,
        model__num_layers=24,
        model__num_heads=16,
        model__intermediate_size=5632,
    )


def official_7b() -> Config:
    """The model whose weights the paper's authors released: paper_7b where their code differs from the paper."""
    return replace_in(
        paper_7b(),
        name="official_7b",
        data__sampler="release",
        model__variant="release",
        model__lora_rank=16,
        model__control_every=6,
        model__control_strength=1.5,
        model__gumbel_at_inference=True,
        generate__max_words=512,
    )


def pbs() -> PBSConfig:
    """PBS in small, trained from scratch on AdWorld on 2 cores."""
    return PBSConfig(
        name="pbs",
        model=PBSModelConfig(
            resize=110,
            image_size=96,
            hidden_size=128,
            num_layers=4,
            num_heads=4,
            intermediate_size=512,
        ),
        contrast=ContrastConfig(
            pair_num=20,
            temperature=0.1,
            hidden_size=512,
            train_trunk=True,
            min_crop=0.5,
            blur=(0.3, 0.3),
            solarise=(0.0, 0.0),
            colour_jitter=0.25,
            other_product=0.5,
        ),
        train=TrainConfig(
            steps=400, batch_size=80, learning_rate=1e-3, warmup=30, decay=0.6, weight_decay=0.05, save_every=100
        ),
        world=WorldConfig(),
    )


def paper_pbs() -> PBSConfig:
    """PBS as the paper and the authors' code have it: heads on a frozen MoCo v3; what they leave open is MoCo v3's."""
    return PBSConfig(
        name="paper_pbs",
        contrast=ContrastConfig(pair_num=2),
        train=TrainConfig(batch_size=256, learning_rate=1.5e-4, weight_decay=0.1, betas=(0.9, 0.999)),
    )


ABLATIONS = (
    nano_pss,
    nano_history,
    nano_baseline,
    nano_image,
    nano_text,
    nano_at_random,
    nano_most_similar,
    nano_compact,
    nano_distilled,
    nano_parallel,
)
RECIPES: dict[str, Callable[[], Config]] = {f.__name__: f for f in (nano, *ABLATIONS, paper_1b, paper_7b, official_7b)}
RECIPES |= {f"nano_{number}_clicks": partial(nano_clicks, number) for number in (3, 5, 8, 10, 12)}
PBS_RECIPES = {f.__name__: f for f in (pbs, paper_pbs)}  # of the metric


def recipe(name: str) -> Config:
    """The recipe of that name; `ValueError` offers the nearest name otherwise."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, list(RECIPES))}")
    return RECIPES[name]()
