"""Random losses Θ·Ψ: functions of s, g and φ, for tensors as for the symbols that they are traced with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

Function = Callable[[Any, Any, Any], Any]

# Each keeps to where it is smooth and moderate, whatever its argument; thresholds lie where nothing ties.
UNARY: tuple[Callable[[Any], Any], ...] = (
    lambda x: -x,
    lambda x: x.abs(),
    lambda x: x * x,
    lambda x: x**3,
    lambda x: (x.abs() + 0.2) ** 1.7,
    lambda x: 1 / (x.abs() + 0.7),
    lambda x: torch.sqrt(x.abs() + 0.1),
    lambda x: (x * x + 0.3).rsqrt(),
    lambda x: torch.exp(torch.tanh(x)),
    lambda x: torch.expm1(0.5 * torch.tanh(x)),
    lambda x: torch.log(x.abs() + 0.3),
    lambda x: torch.log1p(x * x),
    lambda x: torch.sin(2 * x),
    lambda x: torch.cos(x),
    lambda x: torch.tanh(x),
    lambda x: torch.sigmoid(3 * x),
    lambda x: torch.nn.functional.softplus(torch.tanh(x)),
    lambda x: torch.nn.functional.logsigmoid(x),
    lambda x: torch.relu(x - 0.1),
    lambda x: x.clamp(-0.4, 0.6),
    lambda x: torch.clamp_min(x, 0.05),
    lambda x: torch.sign(x) * x,
)

BINARY: tuple[Callable[[Any, Any], Any], ...] = (
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: x / (y.abs() + 0.5),
    lambda x, y: torch.maximum(x, y),
    lambda x, y: torch.minimum(x, y),
    lambda x, y: torch.where(x < y + 0.0137, x * y, x - y),
    lambda x, y: torch.where((x > 0.2013) & (y <= 0.5017), x, y + 1),
    lambda x, y: (x.abs() + 0.3) ** torch.tanh(y),
    lambda x, y: torch.lerp(x, y, 0.3),
    lambda x, y: x.detach() * y,
)

LEAVES: tuple[Function, ...] = (
    lambda s, g, phi: s,
    lambda s, g, phi: g,
    lambda s, g, phi: s - g,
    lambda s, g, phi: 1 - s,
    lambda s, g, phi: s.log(),
    lambda s, g, phi: g * torch.log1p(-s),
)

WITH_PHI: tuple[Function, ...] = (
    lambda s, g, phi: phi(s)[0],
    lambda s, g, phi: phi(g)[-1],
    lambda s, g, phi: (phi(s) - phi(g)).square().sum(0),
    lambda s, g, phi: phi(s - g).abs().sum(0),
    lambda s, g, phi: torch.linalg.vector_norm(phi(s), dim=0),
    lambda s, g, phi: (phi(s) * phi(g)).sum(0),
    lambda s, g, phi: sum(each * each for each in phi(0.5 * s + 2 * g)),
    lambda s, g, phi: phi(g).abs().amax(0),
)


def random_loss(seed: int, with_phi: bool = True, size: int = 8) -> Function:
    """A function psi(s, g, phi) of about ``size`` operations."""
    chance = random.Random(seed)
    leaves = LEAVES + WITH_PHI if with_phi else LEAVES
    parts = [chance.choice(leaves) for _ in range(3)]
    if with_phi:
        parts.append(chance.choice(WITH_PHI))
    while size > 0 or len(parts) > 1:
        size -= 1
        place = chance.randrange(len(parts))
        if len(parts) > 1 and (size <= 0 or chance.random() < 0.5):
            other = parts.pop(chance.randrange(len(parts)))
            place = min(place, len(parts) - 1)
            parts[place] = _both(chance.choice(BINARY), parts[place], other)
        else:
            parts[place] = _one(chance.choice(UNARY), parts[place])
            parts.append(chance.choice(leaves)) if chance.random() < 0.2 and size > 2 else None
    return parts[0]


def _one(operation: Callable[[Any], Any], part: Function) -> Function:
    return lambda s, g, phi: operation(part(s, g, phi))


def _both(operation: Callable[[Any, Any], Any], a: Function, b: Function) -> Function:
    return lambda s, g, phi: operation(a(s, g, phi), b(s, g, phi))
