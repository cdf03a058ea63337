"""Multimodal preference extraction (Eq. 7, 8): which words and patches of the history matter, fused."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from uniadgen.model.configuration import UniAdGenConfig


class Selection(NamedTuple):
    """What a relevance extractor decided. `tokens` = mask * input (Eq. 7); `mask` is 1 for kept tokens."""

    tokens: Tensor  # (B, L, D)
    mask: Tensor  # (B, L)
    scores: Tensor  # (B, L), cosine of input and output


class Fused(NamedTuple):
    """Eq. 8: the preference tokens, and the selections that led to them."""

    text: Tensor  # (B, N, T, D)
    image: Tensor  # (B, N, P, D)
    text_selection: Selection
    image_selection: Selection


class Block(nn.Module):
    """A post-norm Transformer encoder layer."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.ff = feed_forward(size)
        self.norm1 = nn.LayerNorm(size)
        self.norm2 = nn.LayerNorm(size)

    def forward(self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Attends to valid tokens only."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=valid[:, None, None, :]
        )  # (B, heads, L, D / heads)
        x = self.norm1(x + self.out(attended.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.ff(x))


def feed_forward(size: int) -> nn.Sequential:
    """D -> 4 D -> D."""
    return nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(approximate="tanh"), nn.Linear(4 * size, size))


class RelevanceExtractor(nn.Module):
    """Eq. 7: e = TK(G(e_in . e_out)) * e_in, over all tokens of one modality jointly."""

    def __init__(self, config: UniAdGenConfig, max_tokens: int) -> None:
        super().__init__()
        size = config.text_config.hidden_size
        self.keep_rate = config.keep_rate
        self.gumbel_scale = config.gumbel_scale
        self.gumbel_at_inference = config.gumbel_at_inference
        self.position = nn.Parameter(torch.zeros(max_tokens, size))  # restarts at every click
        self.blocks = nn.ModuleList(Block(size, config.preference_heads) for _ in range(config.extractor_layers))

    def forward(
        self, x: Float[Tensor, "B N L D"], valid: Bool[Tensor, "B N L"], generator: torch.Generator | None
    ) -> Selection:
        """Selects the most relevant tokens; padding is never selected."""
        tokens, present = x.flatten(1, 2), valid.flatten(1, 2)
        hidden = (x + self.position[: x.shape[2]]).flatten(1, 2)
        for block in self.blocks:
            hidden = block(hidden, _attendable(present))
        scores = F.cosine_similarity(tokens.float(), hidden.float(), dim=-1)
        mask = self._select(scores, present, generator)
        return Selection(tokens * mask[..., None].to(tokens.dtype), mask, scores)

    def _select(self, scores: Tensor, valid: Tensor, generator: torch.Generator | None) -> Tensor:
        """TK(G(.)): a hard top-K mask whose gradient is that of the (noisy) softmax."""
        noisy = scores
        if self.training or self.gumbel_at_inference:
            uniform = torch.rand(scores.shape, generator=generator, device=scores.device).clamp(1e-9, 1 - 1e-7)
            noisy = scores - self.gumbel_scale * torch.log(-torch.log(uniform))
        noisy = noisy.masked_fill(~valid, torch.finfo(noisy.dtype).min)
        soft = noisy.softmax(-1) * valid
        keep = (valid.sum(-1, keepdim=True) * self.keep_rate).long().clamp(min=1)
        rank = noisy.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        hard = ((rank < keep) & valid).float()
        return hard + soft - soft.detach()


class Preference(nn.Module):
    """Two relevance extractors and the fusion PF of Eq. 8."""

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__()
        size = config.text_config.hidden_size
        self.text_extractor = RelevanceExtractor(config, config.max_click_words)
        self.image_extractor = RelevanceExtractor(config, config.max_click_cells)
        self.ff = feed_forward(size)  # f of Eq. 8
        self.text_position = nn.Parameter(torch.zeros(config.max_click_words, size))
        self.image_position = nn.Parameter(torch.zeros(config.max_click_cells, size))
        self.modality = nn.Embedding(2, size)
        self.blocks = nn.ModuleList(Block(size, config.preference_heads) for _ in range(config.fusion_layers))
        self.out = nn.Linear(size, size)

    def forward(
        self,
        text: Float[Tensor, "B N T D"],
        words: Bool[Tensor, "B N T"],
        image: Float[Tensor, "B N P D"],
        clicked: Bool[Tensor, "B N"],
        generator: torch.Generator | None = None,
    ) -> Fused:
        """Embedded titles and pictures of the clicks -> preference tokens of the same shapes.

        Source: Eq. 7 and 8. `words` marks real words, `clicked` real clicks; the rest is padding.
        """
        cells = clicked[:, :, None].expand(image.shape[:3])
        image_selection = self.image_extractor(image, cells, generator)
        text_selection = self.text_extractor(text, words, generator)
        v = self._prepare(image_selection.tokens, self.image_position[: image.shape[2]], image.shape[1], 0)
        t = self._prepare(text_selection.tokens, self.text_position[: text.shape[2]], text.shape[1], 1)
        fused = torch.cat([v, t], dim=1)
        valid = _attendable(torch.cat([cells.flatten(1), words.flatten(1)], dim=1))
        for block in self.blocks:
            fused = block(fused, valid)
        selected = torch.cat([image_selection.tokens, text_selection.tokens], dim=1)
        fused_image, fused_text = (selected + self.out(fused)).split([v.shape[1], t.shape[1]], dim=1)
        return Fused(fused_text.view_as(text), fused_image.view_as(image), text_selection, image_selection)

    def _prepare(self, tokens: Tensor, position: Tensor, num_clicks: int, modality: int) -> Tensor:
        """f(e) + e, then where the token stood in its click and which modality it is."""
        tokens = self.ff(tokens) + tokens
        return tokens + position.repeat(num_clicks, 1) + self.modality.weight[modality]


class PreferenceControl(nn.Module):
    """Preference tokens as a control: what stands at a place in the clicked pictures steers that place of the new one.

    Not in the paper. A pretrained decoder looks up the history's tokens; one trained from scratch for two hours
    hardly learns to, and this spares it the search. No biases: without a history the control is exactly zero.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size, bias=False)
        self.layers = nn.Sequential(
            nn.Linear(size, size, bias=False), nn.GELU(approximate="tanh"), nn.Linear(size, size, bias=False)
        )

    def forward(
        self, image: Float[Tensor, "B N P D"], clicked: Bool[Tensor, "B N"], num_cells: int
    ) -> Float[Tensor, "B K D"]:
        """The mean over a shopper's clicks, spread from the P places of a click to the K cells of a picture."""
        share = clicked / clicked.sum(-1, keepdim=True).clamp(min=1)
        mean = torch.einsum("bnpd,bn->bdp", image, share.to(image.dtype))
        side, target = math.isqrt(mean.shape[-1]), math.isqrt(num_cells)
        grid = F.interpolate(mean.unflatten(-1, (side, side)), size=(target, target), mode="nearest")
        return self.layers(self.norm(grid.flatten(2).transpose(1, 2)))


def _attendable(valid: Tensor) -> Tensor:
    """A row without any click attends to its padding, which nobody reads: attention over nothing is not a number."""
    return valid | ~valid.any(-1, keepdim=True)
