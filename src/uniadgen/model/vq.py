"""Pictures to discrete codes and back: Janus' VQ with the quantiser it was trained with."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE


def encode(vq: JanusVQVAE, pixels: Float[Tensor, "B 3 H W"], fold: int = 1) -> Int[Tensor, "B K"]:
    """Pixels in [-1, 1] -> codes, row by row.

    The nearest code is the argmin over L2-normalised latents and codebook, in float32, as the VQ was trained;
    transformers' own `encode` leaves the normalisation out and finds other codes.
    """
    latents = vq.quant_conv(vq.encoder(F.pixel_unshuffle(pixels, fold)))
    return nearest(latents.flatten(2).transpose(1, 2), vq.quantize.embedding.weight)


def decode(vq: JanusVQVAE, codes: Int[Tensor, "B K"], fold: int = 1) -> Float[Tensor, "B 3 H W"]:
    """Codes of a square picture -> pixels in about [-1, 1]."""
    return decode_latents(vq, look_up(vq, codes), fold)


def look_up(vq: JanusVQVAE, codes: Int[Tensor, "B K"]) -> Float[Tensor, "B C h w"]:
    """Codes -> their unit vectors, laid out as a square of cells."""
    side = math.isqrt(codes.shape[1])
    if side * side != codes.shape[1]:
        raise ValueError(f"got {codes.shape[1]} codes, expected a square number such as {side * side}")
    vectors = F.normalize(vq.quantize.embedding(codes), dim=-1)
    return vectors.transpose(1, 2).unflatten(2, (side, side))


def decode_latents(vq: JanusVQVAE, latents: Float[Tensor, "B C h w"], fold: int) -> Float[Tensor, "B 3 H W"]:
    """Quantised latents -> pixels in about [-1, 1]."""
    return F.pixel_shuffle(vq.decoder(vq.post_quant_conv(latents)), fold)


def nearest(latents: Float[Tensor, "B K C"], codebook: Float[Tensor, "Q C"]) -> Int[Tensor, "B K"]:
    """The code whose direction is closest."""
    with torch.autocast(latents.device.type, enabled=False):
        return (F.normalize(latents.float(), dim=-1) @ F.normalize(codebook.float(), dim=-1).T).argmax(-1)


class VQLosses(NamedTuple):
    """Terms of the VQ's loss; `total` is what is minimised."""

    total: Tensor
    pixel: Tensor
    edge: Tensor
    commitment: Tensor


class VQTrainer(nn.Module):
    """The VQ as something with `.loss(batch)`: reconstruction, edges at three scales, and commitment.

    Codes that no latent of the last steps chose are moved onto latents of the batch, so that the codebook is used.
    """

    def __init__(self, config: JanusVQVAEConfig, fold: int) -> None:
        super().__init__()
        self.vq = JanusVQVAE(config)
        self.fold = fold
        self.register_buffer("usage", torch.ones(config.num_embeddings))

    def loss(self, pixels: Float[Tensor, "B 3 H W"], generator: torch.Generator | None = None) -> VQLosses:
        """Mean reconstruction loss of a batch of pictures in [-1, 1]."""
        vq = self.vq
        latents = F.normalize(vq.quant_conv(vq.encoder(F.pixel_unshuffle(pixels, self.fold))).float(), dim=1)
        flat = latents.flatten(2).transpose(1, 2)  # (B, K, C)
        if self.training:
            self._revive(flat.detach().flatten(0, 1), generator)
        codes = nearest(flat, vq.quantize.embedding.weight)
        self.usage.mul_(0.99)
        self.usage[codes.flatten()] = 1.0
        quantised = look_up(vq, codes)
        commitment = F.mse_loss(quantised, latents.detach()) + 0.25 * F.mse_loss(latents, quantised.detach())
        painted = decode_latents(vq, latents + (quantised - latents).detach(), self.fold).float()
        pixel = F.l1_loss(painted, pixels) + F.mse_loss(painted, pixels)
        edge = _edge_loss(painted, pixels)
        return VQLosses(pixel + edge + commitment, pixel, edge, commitment)

    @torch.no_grad()
    def _revive(self, latents: Tensor, generator: torch.Generator | None) -> None:
        """Moves codes unused for about 160 steps (0.99^160 = 0.2) onto random latents of this batch."""
        dead = (self.usage < 0.2).nonzero().flatten()[: len(latents) // 4]
        chosen = torch.randperm(len(latents), generator=generator, device=latents.device)[: len(dead)]
        self.vq.quantize.embedding.weight[dead] = latents[chosen]
        self.usage[dead] = 1.0


def _edge_loss(painted: Tensor, pixels: Tensor) -> Tensor:
    """L1 between horizontal and vertical differences at three scales: what a mean colour misses."""
    total = painted.new_zeros(())
    for _ in range(3):
        for dim in (-1, -2):
            total = total + F.l1_loss(painted.diff(dim=dim), pixels.diff(dim=dim))
        painted, pixels = F.avg_pool2d(painted, 2), F.avg_pool2d(pixels, 2)
    return total
