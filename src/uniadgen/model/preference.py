"""Multimodal preference extraction (Eq. 7, 8): which words and patches of the history matter, fused."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.activations import ACT2FN

from uniadgen.model.configuration import UniAdGenConfig
from uniadgen.model.foreground import control_layers

Noise = torch.Generator | Sequence[torch.Generator] | None  # one for all rows of a batch or one for each


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

    def kept(self) -> tuple[Bool[Tensor, "B N T"], Bool[Tensor, "B N P"]]:
        """Which words and cells were kept; padding never is."""
        words, cells = self.text_selection.mask, self.image_selection.mask
        return words.view(self.text.shape[:3]) > 0.5, cells.view(self.image.shape[:3]) > 0.5


class Block(nn.Module):
    """A post-norm Transformer encoder layer; dropout on attention weights and on what is added."""

    def __init__(self, size: int, heads: int, activation: str = "gelu_pytorch_tanh", dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.ff = feed_forward(size, activation)
        self.norm1 = nn.LayerNorm(size)
        self.norm2 = nn.LayerNorm(size)

    def forward(self, x: Float[Tensor, "B L D"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Attends to valid tokens only."""
        rate = self.dropout if self.training else 0.0
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=valid[:, None, None, :], dropout_p=rate
        )  # (B, heads, L, D / heads)
        x = self.norm1(x + F.dropout(self.out(attended.transpose(1, 2).flatten(2)), rate, self.training))
        return self.norm2(x + F.dropout(self.ff(x), rate, self.training))


def feed_forward(size: int, activation: str = "gelu_pytorch_tanh", inner: int | None = None) -> nn.Sequential:
    """D -> `inner` (4 D) -> D."""
    inner = inner or 4 * size
    return nn.Sequential(nn.Linear(size, inner), ACT2FN[activation], nn.Linear(inner, size))


class RelevanceExtractor(nn.Module):
    """Eq. 7: e = TK(G(e_in . e_out)) * e_in, over all tokens of one modality jointly."""

    def __init__(self, config: UniAdGenConfig, max_tokens: int) -> None:
        super().__init__()
        size = config.text_config.hidden_size
        self.keep_rate = config.keep_rate
        self.gumbel_scale = config.gumbel_scale
        self.gumbel_at_inference = config.gumbel_at_inference
        self.position = nn.Parameter(torch.zeros(max_tokens, size))  # restarts at every click
        self.blocks = blocks(config, config.extractor_layers)

    def forward(self, x: Float[Tensor, "B N L D"], valid: Bool[Tensor, "B N L"], generator: Noise) -> Selection:
        """Selects the most relevant tokens; padding is never selected."""
        tokens, present = x.flatten(1, 2), valid.flatten(1, 2)
        hidden = (x + along(self.position, x.shape[2])).flatten(1, 2)
        for block in self.blocks:
            hidden = block(hidden, _attendable(present))
        scores = F.cosine_similarity(tokens.float(), hidden.float(), dim=-1)
        mask = self._select(scores, present, generator)
        return Selection(self._take(mask[..., None].to(tokens.dtype), tokens, hidden), mask, scores)

    def _take(self, mask: Float[Tensor, "B L 1"], tokens: Float[Tensor, "B L D"], hidden: Tensor) -> Tensor:
        """What is handed on of every token."""
        return mask * tokens

    def _select(self, scores: Tensor, valid: Tensor, generator: Noise) -> Tensor:
        """TK(G(.)): a hard top-K mask whose gradient is that of the (noisy) softmax."""
        noisy = scores
        if self.training or self.gumbel_at_inference:
            noisy = scores + self.gumbel_scale * gumbel(scores, valid, generator)
        noisy = noisy.masked_fill(~valid, torch.finfo(noisy.dtype).min)
        soft = noisy.softmax(-1) * valid
        keep = (valid.sum(-1, keepdim=True) * self.keep_rate).long().clamp(min=1)
        rank = noisy.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        hard = ((rank < keep) & valid).float()
        return hard + soft - soft.detach()


def gumbel(like: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], generator: Noise) -> Float[Tensor, "B L"]:
    """Gumbel noise of a tensor's shape.

    Where every row has its own generator, it is drawn for valid tokens alone: a row's noise must not depend on how far
    it is padded for the sake of others.
    """
    if isinstance(generator, Sequence):
        uniform = torch.full(like.shape, 0.5)
        for row, (here, own) in enumerate(zip(valid.cpu(), generator, strict=True)):
            uniform[row, here] = torch.rand(int(here.sum()), generator=own)
        uniform = uniform.to(like.device)
    else:
        uniform = torch.rand(like.shape, generator=generator, device=like.device)
    uniform = uniform.clamp(1e-9, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def along(table: Float[Tensor, "P D"], length: int) -> Float[Tensor, "L D"]:
    """The beginning of a position table; a table that is too short begins again."""
    return table.repeat(-(-length // len(table)), 1)[:length]


def blocks(config: UniAdGenConfig, number: int) -> nn.ModuleList:
    """Encoder layers as the config's variant has them."""
    size, heads = config.text_config.hidden_size, config.preference_heads
    options = {"activation": "quick_gelu", "dropout": 0.1} if config.variant == "release" else {}
    return nn.ModuleList(Block(size, heads, **options) for _ in range(number))


class Preference(nn.Module):
    """Two relevance extractors and the fusion PF of Eq. 8."""

    extractor: type[RelevanceExtractor] = RelevanceExtractor

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__()
        size = config.text_config.hidden_size
        self.text_extractor = self.extractor(config, config.max_click_words)
        self.image_extractor = self.extractor(config, config.max_click_cells)
        self.ff = feed_forward(size)  # f of Eq. 8
        self.text_position = nn.Parameter(torch.zeros(config.max_click_words, size))
        self.image_position = nn.Parameter(torch.zeros(config.max_click_cells, size))
        self.modality = nn.Embedding(2, size)
        self.blocks = blocks(config, config.fusion_layers)
        self.out = nn.Linear(size, size)

    def forward(
        self,
        text: Float[Tensor, "B M T D"],
        words: Bool[Tensor, "B M T"],
        image: Float[Tensor, "B N P D"],
        clicked: Bool[Tensor, "B N"],
        generator: Noise = None,
    ) -> Fused:
        """Embedded titles and pictures of the clicks -> preference tokens of the same shapes.

        Source: Eq. 7 and 8. `words` marks real words, `clicked` real clicks; the rest is padding.
        There are as many titles (M) as pictures (N), save where a modality is looked at alone.
        """
        cells = clicked[:, :, None].expand(image.shape[:3])
        image_selection = self.image_extractor(image, cells, generator)
        text_selection = self.text_extractor(text, words, generator)
        v = self._prepare(image_selection.tokens, along(self.image_position, image.shape[2]), image.shape[1], 0)
        t = self._prepare(text_selection.tokens, along(self.text_position, text.shape[2]), text.shape[1], 1)
        fused = torch.cat([v, t], dim=1)
        valid = _attendable(torch.cat([cells.flatten(1), words.flatten(1)], dim=1))
        for block in self.blocks:
            fused = block(fused, valid)
        selected = torch.cat([image_selection.tokens, text_selection.tokens], dim=1)
        fused_image, fused_text = self._finish(selected, fused).split([v.shape[1], t.shape[1]], dim=1)
        return Fused(fused_text.view_as(text), fused_image.view_as(image), text_selection, image_selection)

    def _prepare(self, tokens: Tensor, position: Tensor, num_clicks: int, modality: int) -> Tensor:
        """f(e) + e, then where the token stood in its click and which modality it is."""
        tokens = self.ff(tokens) + tokens
        return tokens + position.repeat(num_clicks, 1) + self.modality.weight[modality]

    def _finish(self, selected: Tensor, fused: Tensor) -> Tensor:
        """What was selected, and what the fusion adds to it."""
        return selected + self.out(fused)


class Unselected(nn.Module):
    """No preference extraction: the history's embeddings go on as they are (Table 2, "w/ history" and "w/ PSS")."""

    def forward(
        self,
        text: Float[Tensor, "B M T D"],
        words: Bool[Tensor, "B M T"],
        image: Float[Tensor, "B N P D"],
        clicked: Bool[Tensor, "B N"],
        generator: Noise = None,
    ) -> Fused:
        """As `Preference`, with everything selected that is no padding."""
        cells = clicked[:, :, None].expand(image.shape[:3])
        return Fused(text, image, _everything(text, words), _everything(image, cells))


def _everything(tokens: Float[Tensor, "B N L D"], valid: Bool[Tensor, "B N L"]) -> Selection:
    mask = valid.flatten(1, 2).float()
    return Selection(tokens.flatten(1, 2) * mask[..., None].to(tokens.dtype), mask, mask)


class ReleaseExtractor(RelevanceExtractor):
    """As the authors' release has it: the mask is on what comes out of the encoder, and a layer follows."""

    def __init__(self, config: UniAdGenConfig, max_tokens: int) -> None:
        super().__init__(config, max_tokens)
        size = config.text_config.hidden_size
        self.out = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def _take(self, mask: Float[Tensor, "B L 1"], tokens: Float[Tensor, "B L D"], hidden: Tensor) -> Tensor:
        masked = mask * hidden
        return self.norm(self.out(masked) + masked)


class ReleasePreference(Preference):
    """As the authors' release has it: a feed-forward layer without residual before the fusion, none around it."""

    extractor = ReleaseExtractor

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__(config)
        self.ff = feed_forward(config.text_config.hidden_size, "quick_gelu")
        self.norm = nn.LayerNorm(config.text_config.hidden_size)

    def _prepare(self, tokens: Tensor, position: Tensor, num_clicks: int, modality: int) -> Tensor:
        return self.ff(tokens + position.repeat(num_clicks, 1) + self.modality.weight[modality])

    def _finish(self, selected: Tensor, fused: Tensor) -> Tensor:
        return self.out(self.norm(fused))


def preference_of(config: UniAdGenConfig) -> Preference | Unselected:
    """Preference extraction as the config has it, or none."""
    if config.extractor_layers == 0:
        return Unselected()
    return ReleasePreference(config) if config.variant == "release" else Preference(config)


class PreferenceControl(nn.Module):
    """Preference tokens as a control: what stands at a place in the clicked pictures steers that place of the new one.

    Not in the paper. It spares a small decoder, trained from scratch, the search for the history's tokens; in our
    trials that was learnt sooner. No biases: without a history the control is exactly zero.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size, bias=False)
        self.layers = control_layers(size, size)

    def forward(
        self, image: Float[Tensor, "B N P D"], clicked: Bool[Tensor, "B N"], num_cells: int
    ) -> Float[Tensor, "B K D"]:
        """The mean over a shopper's clicks, spread from the P places of a click to the K cells of a picture."""
        share = clicked / clicked.sum(-1, keepdim=True).clamp(min=1)
        mean = torch.einsum("bnpd,bn->bdp", image, share.to(image.dtype))
        side, target = math.isqrt(mean.shape[-1]), math.isqrt(num_cells)
        grid = F.interpolate(mean.unflatten(-1, (side, side)), size=(target, target), mode="nearest")
        return self.layers(self.norm(grid.flatten(2).transpose(1, 2)))


class WordPreference(nn.Module):
    """Words like those that a shopper clicked become more probable, as far as the text has a place for them now.

    Not in the paper. Which of a product's selling points resembles those clicked takes a small decoder many more steps
    to find out than which picture does; here the resemblance is an inner product of word vectors, and how much it
    counts is read from the hidden state. Without a history nothing is added.
    """

    def __init__(self, vocab_size: int, width: int, size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.gate = nn.Linear(size, 1)

    def forward(self, ids: Int[Tensor, "B N T"], words: Bool[Tensor, "B N T"]) -> Float[Tensor, "B V"]:
        """How much every word of the vocabulary is like the clicked ones; `words` marks those, the rest is padding."""
        clicked = torch.einsum("bntw,bnt->bw", self.words(ids), words.to(self.words.weight.dtype))
        return F.normalize(clicked, dim=-1) @ self.words.weight.T

    def weigh(self, hidden: Float[Tensor, "*L D"], alike: Float[Tensor, "*L V"]) -> Float[Tensor, "*L V"]:
        """What is added to the scores of the next word."""
        return F.softplus(self.gate(hidden)) * alike


def _attendable(valid: Tensor) -> Tensor:
    """A row without any click attends to its padding, which nobody reads: attention over nothing is not a number."""
    return valid | ~valid.any(-1, keepdim=True)
