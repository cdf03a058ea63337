"""nano, nano_words, paper_1b, paper_7b, official_7b and the ablations: functions that return a Config."""

from dataclasses import replace

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
        generate=GenerateConfig(
            guidance=2.0,
            image_top_k=100,
            text_top_k=10,
            max_words=48,
            connecting_words=("and", "now", "with", "plus", ",", ":", "!", "与", "现有", "更有", "，", "：", "！"),
        ),
        world=WorldConfig(),
    )


def nano_words() -> Config:
    """nano that learns texts first, so that they use the kind of selling point a shopper likes: see docs/nano.md."""
    first = TrainConfig(
        steps=480, batch_size=16, optimizer="muon", learning_rate=2e-3, warmup=30, weight_decay=0.05, save_every=100
    )
    return replace_in(replace(nano(), words_train=first), name="nano_words", train__steps=2800)


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
            colour_jitter=0.3,
            other_product=0.5,
        ),
        train=TrainConfig(
            steps=800, batch_size=80, learning_rate=1e-3, warmup=30, decay=0.7, weight_decay=0.05, save_every=100
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


RECIPES = {f.__name__: f for f in (nano, nano_words, paper_1b, paper_7b, official_7b)}
PBS_RECIPES = {f.__name__: f for f in (pbs, paper_pbs)}  # of the metric


def recipe(name: str) -> Config:
    """The recipe of that name; `ValueError` offers the nearest name otherwise."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}{nearest(name, list(RECIPES))}")
    return RECIPES[name]()
