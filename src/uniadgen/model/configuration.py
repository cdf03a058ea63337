"""UniAdGenConfig: Janus' configuration, plus the foreground encoder and the knobs of Eq. 5, 7 and 8."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import Dinov2Config, JanusConfig, LlamaConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from uniadgen.config import Config


@strict
class UniAdGenConfig(JanusConfig):
    """Configuration of `UniAdGenForConditionalGeneration`; field meanings as in `uniadgen.config.ModelConfig`."""

    model_type = "uniadgen"
    sub_configs_defaults = {**JanusConfig.sub_configs_defaults, "foreground_config": Dinov2Config}  # noqa: RUF012

    if TYPE_CHECKING:  # after construction these are never dictionaries or None
        text_config: LlamaConfig  # pyright: ignore
        vision_config: JanusVisionConfig  # pyright: ignore
        vq_config: JanusVQVAEConfig  # pyright: ignore
        foreground_config: Dinov2Config  # pyright: ignore
    else:
        foreground_config: dict | Dinov2Config | None = None
    tie_word_embeddings: bool = False  # Janus-Pro is untied; transformers' default is not
    pad_token_id: int | None = 0
    variant: str = "paper"
    vq_patch: int = 0
    vq_size: int = 256
    vq_blocks: int = 5
    control_every: int = 4
    control_strength: float = 1.0
    keep_rate: float = 0.4
    compact: bool = False
    extractor_layers: int = 2
    fusion_layers: int = 4
    preference_heads: int = 16
    preference_control: bool = False
    word_preference: int = 0
    gumbel_scale: float = 1.0
    gumbel_at_inference: bool = False
    text_weight: float = 1.0
    image_weight: float = 1.0
    first_cells_weight: float = 0.0
    condition_dropout: float = 0.1
    code_dropout: float = 0.0
    row_lag: int = 0
    max_click_words: int = 30
    max_click_cells: int = 64


# Knobs that mean the same in both configurations.
_SHARED = (
    "variant",
    "vq_patch",
    "vq_blocks",
    "control_every",
    "control_strength",
    "keep_rate",
    "compact",
    "extractor_layers",
    "fusion_layers",
    "preference_heads",
    "preference_control",
    "word_preference",
    "gumbel_scale",
    "gumbel_at_inference",
    "text_weight",
    "image_weight",
    "first_cells_weight",
    "condition_dropout",
    "code_dropout",
    "row_lag",
)


def architecture(config: Config, pad_id: int) -> UniAdGenConfig:
    """The transformers configuration of a recipe."""
    data, model = config.data, config.model
    cell = model.downsample
    return UniAdGenConfig(
        text_config=LlamaConfig(
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            intermediate_size=model.intermediate_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_heads,
            num_key_value_heads=model.num_heads,
            max_position_embeddings=16384,
            pad_token_id=pad_id,
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=model.siglip_size,
            num_hidden_layers=model.siglip_layers,
            num_attention_heads=model.siglip_heads,
            image_size=data.image_size,
            patch_size=cell,
            projection_dim=model.hidden_size,
            num_image_tokens=config.cells,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=model.code_size,
            num_embeddings=model.num_codes,
            latent_channels=model.vq_latent,
            # With a patch VQ, Janus' convolutions are replaced: they are built as small as can be.
            base_channels=32 if model.vq_patch else model.vq_channels,
            channel_multiplier=[1] if model.vq_patch else list(model.vq_multiplier),
            num_res_blocks=1 if model.vq_patch else model.vq_blocks,
            projection_dim=model.hidden_size,
            image_token_embed_dim=model.hidden_size,
        ),
        foreground_config=Dinov2Config(
            hidden_size=model.foreground_size,
            num_hidden_layers=model.foreground_layers,
            num_attention_heads=model.foreground_heads,
            num_channels=model.foreground_channels,
            image_size=data.image_size // cell * 14,
            patch_size=14,
        ),
        pad_token_id=pad_id,
        vq_size=model.vq_channels,
        **{name: getattr(model, name) for name in _SHARED},
        max_click_words=data.click_words,
        max_click_cells=config.click_cells,
    )
