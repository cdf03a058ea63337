"""Pictures to discrete codes and back: Janus' VQ with the quantiser it was trained with."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from uniadgen.model import shards
from uniadgen.model.configuration import UniAdGenConfig

PREFIX = "model.vqmodel."  # of its tensors in a folder of weights


def encode(vq: JanusVQVAE, pixels: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B K"]:
    """Pixels in [-1, 1] -> codes, row by row.

    The nearest code is the argmin over L2-normalised latents and codebook, in float32, as the VQ was trained;
    transformers' own `encode` leaves the normalisation out and finds other codes.
    """
    latents = vq.quant_conv(vq.encoder(pixels))
    return nearest(latents.flatten(2).transpose(1, 2), vq.quantize.embedding.weight)


def decode(vq: JanusVQVAE, codes: Int[Tensor, "B K"]) -> Float[Tensor, "B 3 H W"]:
    """Codes of a square picture -> pixels in about [-1, 1]."""
    return decode_latents(vq, look_up(vq, codes))


def look_up(vq: JanusVQVAE, codes: Int[Tensor, "B K"]) -> Float[Tensor, "B C h w"]:
    """Codes -> their unit vectors, laid out as a square of cells."""
    side = math.isqrt(codes.shape[1])
    if side * side != codes.shape[1]:
        raise ValueError(f"got {codes.shape[1]} codes, expected a square number such as {side * side}")
    vectors = F.normalize(vq.quantize.embedding(codes), dim=-1)
    return vectors.transpose(1, 2).unflatten(2, (side, side))


def decode_latents(vq: JanusVQVAE, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    """Quantised latents -> pixels in about [-1, 1]."""
    return vq.decoder(vq.post_quant_conv(latents))


def nearest(latents: Float[Tensor, "B K C"], codebook: Float[Tensor, "Q C"]) -> Int[Tensor, "B K"]:
    """The code whose direction is closest."""
    with torch.autocast(latents.device.type, enabled=False):
        return (F.normalize(latents.float(), dim=-1) @ F.normalize(codebook.float(), dim=-1).T).argmax(-1)


class MixerBlock(nn.Module):
    """Looks at the cells around, then thinks about each (a ConvNeXt block)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(size, size, 3, padding=1, groups=size)
        self.norm = nn.LayerNorm(size)
        self.think = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Same shape."""
        return x + self.think(self.norm(self.look(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class PatchEncoder(nn.Module):
    """Pixels -> latents, one per patch: local, so a code means the same in pictures of any size."""

    def __init__(self, patch: int, size: int, num_blocks: int, latent: int) -> None:
        super().__init__()
        self.patch = patch
        self.start = nn.Linear(3 * patch**2, size)
        self.blocks = nn.Sequential(*(MixerBlock(size) for _ in range(num_blocks)))
        self.end = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, latent))

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B latent h w"]:
        """H and W are multiples of the patch."""
        x = self.start(F.pixel_unshuffle(pixels, self.patch).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.end(self.blocks(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchDecoder(nn.Module):
    """Latents -> pixels: the thinking happens per cell, where it is cheap; two convolutions hide the seams."""

    FINE, CHANNELS = 4, 32  # sub-cells along a cell's side, and their channels

    def __init__(self, patch: int, size: int, num_blocks: int, latent: int) -> None:
        super().__init__()
        self.start = nn.Linear(latent, size)
        self.blocks = nn.Sequential(*(MixerBlock(size) for _ in range(num_blocks)))
        self.refine = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, self.CHANNELS * self.FINE**2))
        self.smooth = nn.Conv2d(self.CHANNELS, self.CHANNELS, 3, padding=1)
        self.end = nn.Conv2d(self.CHANNELS, 3 * (patch // self.FINE) ** 2, 3, padding=1)
        self.rest = patch // self.FINE

    def forward(self, latents: Float[Tensor, "B latent h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels in about [-1, 1]."""
        x = self.blocks(self.start(latents.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        x = F.pixel_shuffle(self.refine(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), self.FINE)
        x = x + F.silu(self.smooth(x))
        return F.pixel_shuffle(self.end(x), self.rest)


def use_patches(vq: JanusVQVAE, config: UniAdGenConfig) -> None:
    """Replaces Janus' convolutions by the patch VQ where the config has one; quantiser and codebook stay Janus'."""
    if not config.vq_patch:
        return
    latent = config.vq_config.latent_channels
    vq.add_module("encoder", PatchEncoder(config.vq_patch, config.vq_size, 2, latent))
    vq.add_module("decoder", PatchDecoder(config.vq_patch, config.vq_size, config.vq_blocks, latent))
    vq.quant_conv.reset_parameters()
    vq.post_quant_conv.reset_parameters()


def load(config: UniAdGenConfig, folder: Path) -> JanusVQVAE:
    """The VQ of a folder of weights (ours, or Janus in Hugging Face's layout) and nothing else of it, at rest."""
    vq = JanusVQVAE(config.vq_config)
    use_patches(vq, config)
    expected = vq.state_dict()
    found = {
        name.removeprefix(PREFIX): tensor
        for path in shards.shards(folder)
        for name, tensor in shards.read(path)
        if name.startswith(PREFIX)
    }
    shards.check_tensors(
        folder, shards.shapes_of(found), shards.shapes_of(expected), "this is not the VQ of the config"
    )
    vq.load_state_dict({name: tensor.float() for name, tensor in found.items()})
    return vq.eval()


def fingerprint(folder: Path) -> str:
    """Tells one VQ from another by its codebook."""
    return shards.fingerprint(folder, [f"{PREFIX}quantize.embedding.weight"])


class VQLosses(NamedTuple):
    """Terms of the VQ's loss; `total` is what is minimised."""

    total: Tensor
    pixel: Tensor
    edge: Tensor
    commitment: Tensor


class VQTrainer(nn.Module):
    """The VQ as something with `.loss(batch)`: reconstruction, edges at three scales, and commitment.

    The first steps do not quantise: a codebook that begins in the dark draws all latents to a few of its codes.
    Codes that no latent chose for a while are moved onto latents of the batch, so that the whole codebook is used.
    """

    usage: Tensor  # (Q), 1 when just chosen, fading
    steps: Tensor  # training steps so far

    WARM_STEPS = 200
    FORGET, DEAD = 0.97, 0.2  # a code unused for about 50 steps (0.97^50 = 0.2) is moved

    def __init__(self, config: UniAdGenConfig) -> None:
        super().__init__()
        self.vq = JanusVQVAE(config.vq_config)
        use_patches(self.vq, config)
        self.register_buffer("usage", torch.zeros(config.vq_config.num_embeddings))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def loss(self, pixels: Float[Tensor, "B 3 H W"], generator: torch.Generator | None = None) -> VQLosses:
        """Mean reconstruction loss of a batch of pictures in [-1, 1]."""
        vq = self.vq
        latents = F.normalize(vq.quant_conv(vq.encoder(pixels)).float(), dim=1)
        flat = latents.flatten(2).transpose(1, 2)  # (B, K, C)
        if self.training:
            self.steps += 1
            self._revive(flat.detach().flatten(0, 1), generator)
        codes = nearest(flat, vq.quantize.embedding.weight)
        if self.training:
            self.usage.mul_(self.FORGET)
            self.usage[codes.flatten()] = 1.0
        quantised = look_up(vq, codes)
        commitment = F.mse_loss(quantised, latents.detach()) + 0.25 * F.mse_loss(latents, quantised.detach())
        if self.steps <= self.WARM_STEPS:
            quantised, commitment = latents, commitment * 0
        painted = decode_latents(vq, latents + (quantised - latents).detach()).float()
        pixel = F.l1_loss(painted, pixels) + F.mse_loss(painted, pixels)
        edge = _edge_loss(painted, pixels)
        return VQLosses(pixel + 0.5 * edge + commitment, pixel, edge, commitment)

    @torch.no_grad()
    def _revive(self, latents: Tensor, generator: torch.Generator | None) -> None:
        """Moves dead codes onto random latents of this batch; at the end of the warm-up, one for every latent."""
        dead = (self.usage < self.DEAD).nonzero().flatten()[: len(latents) // 4]
        if self.steps == self.WARM_STEPS:
            dead = torch.arange(len(self.usage), device=latents.device)[: len(latents)]
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
