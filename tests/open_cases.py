"""Cases of open formulas: a loss, φ, shapes, masks and activations; the operators and autograd on them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels import phi
from geoloss_kernels.call import ACTIVATIONS
from geoloss_kernels.expressions.encoding import compile_density, encode_density
from geoloss_kernels.expressions.loss import trace_loss
from geoloss_kernels.phi import Stencil
from geoloss_kernels.reference.voxels import prepare
from geoloss_kernels.terms import PROGRAM
from tests.random_losses import Function, random_loss


def random_stencil(chance: random.Random, dimensions: int) -> Stencil:
    named = (phi.forward(), phi.central(), phi.laplacian(), phi.sobel())
    if chance.random() < 0.6:
        return chance.choice(named)
    generator = torch.Generator().manual_seed(chance.randrange(1 << 30))
    shape = (chance.choice((1, 2, 3)), *(3,) * dimensions)
    kernel = torch.randn(shape, generator=generator, dtype=torch.float64) / 3
    kept = torch.rand(shape, generator=generator) < chance.choice((0.2, 0.5, 1.0))
    return phi.stencil(kernel * kept)


@dataclass(frozen=True)
class OpenCase:
    """One loss on random volumes."""

    seed: int
    shape: tuple[int, ...]
    stencil: Stencil
    psi: Function
    activation: str
    masked: bool
    spacing: tuple[float, ...]
    include_background: bool
    dtype: torch.dtype = torch.float64

    @property
    def dimensions(self) -> int:
        return len(self.shape) - 2

    @functools.cached_property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, target and mask."""
        generator = torch.Generator().manual_seed(self.seed)
        logits = 2 * torch.randn(self.shape, generator=generator, dtype=torch.float64)
        input = 0.02 + 0.96 * logits.sigmoid() if self.activation == "none" else logits
        target = (torch.rand(self.shape, generator=generator) > 0.6).to(self.dtype)
        mask = torch.rand(self.shape, generator=generator) > 0.3 if self.masked else None
        return input.to(self.dtype), target, mask

    def sums_by_autograd(self, input: Tensor) -> Tensor:
        """[N, C', 1] of the function itself on tensors."""
        _, target, mask = self.tensors
        voxels = prepare(
            input,
            target,
            mask,
            activation=self.activation,
            include_background=self.include_background,
        )
        operator = functools.partial(self.stencil, spacing=self.spacing, valid=voxels.valid)
        return voxels.sum(self.psi(voxels.s, voxels.g, operator)).unsqueeze(-1)

    def terms(self) -> tuple[list[int], list[float]]:
        """The operators' terms and parameters."""
        traced = trace_loss(lambda s, g: 1.0, self.psi, self.stencil, None, self.dimensions)
        encoded = encode_density(
            compile_density(traced.density), traced.stencils, self.dimensions, self.spacing
        )
        kind = PROGRAM.number
        header = [kind, len(encoded.integers), len(encoded.numbers)]
        return [*header, *encoded.integers], list(encoded.numbers)

    def sums(self, geo_sums: Callable[..., Tensor], input: Tensor) -> Tensor:
        """[N, C', 1] of the operators."""
        _, target, mask = self.tensors
        return geo_sums(input, target, mask, [], *self.terms(), *self.options)

    @property
    def options(self) -> tuple[Any, ...]:
        return ACTIVATIONS.index(self.activation), None, self.include_background


def random_case(seed: int) -> OpenCase:
    chance = random.Random(seed)
    dimensions = chance.choice((2, 3))
    channels = chance.choice((1, 2, 3))
    sizes = (1, 2, 3, 5, 8, 9, 16, 17) if dimensions == 3 else (1, 2, 3, 7, 16, 33, 70)
    return OpenCase(
        seed=seed,
        shape=(chance.choice((1, 2)), channels, *(chance.choice(sizes) for _ in range(dimensions))),
        stencil=random_stencil(chance, dimensions),
        psi=random_loss(seed, with_phi=chance.random() < 0.8, size=chance.choice((3, 8, 14))),
        activation=chance.choice(ACTIVATIONS if channels > 1 else ACTIVATIONS[:2]),
        masked=chance.random() < 0.5,
        spacing=tuple(chance.choice((1.0, 0.7, 2.5)) for _ in range(dimensions)),
        include_background=channels == 1 or chance.random() < 0.7,
    )
