"""What `tools/try_wheel.py` runs in a fresh environment: the installed losses against their definitions."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import geoloss_kernels as gk

LOSSES = {
    "dice": gk.DiceLoss(softmax=True, to_onehot_y=True),
    "dice + cross-entropy": gk.DiceCELoss(softmax=True, to_onehot_y=True),
    "dice + fog": gk.DiceFOGLoss(softmax=True, to_onehot_y=True),
    "sog": gk.SOGLoss(two_sided=True, softmax=True, to_onehot_y=True),
    "tversky": gk.TverskyLoss(softmax=True, to_onehot_y=True),
    "generalized dice": gk.GeneralizedDiceLoss(softmax=True, to_onehot_y=True),
    "focal": gk.FocalLoss(to_onehot_y=True),
    "boundary": gk.BoundaryLoss(softmax=True, to_onehot_y=True),
    "open": gk.GEOLoss(
        lambda s, g: (s - g).abs(),
        lambda s, g, phi: gk.norm(phi(s) - phi(g)),
        gk.phi.sobel(),
        softmax=True,
        to_onehot_y=True,
    ),
}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}
WITH_DISTANCES = ("boundary",)
"""Their reference needs scipy, which a bare installation lacks: they are only held to be finite."""


def value_and_gradient(
    loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def check(name: str, dtype: torch.dtype) -> None:
    """AssertionError unless the kernels give the reference's value and gradient."""
    logits = torch.randn(2, 3, 9, 17, 21, dtype=dtype, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 1, 9, 17, 21), generator=torch.Generator().manual_seed(1))
    fused = value_and_gradient(LOSSES[name], logits, target)
    if name in WITH_DISTANCES:
        assert all(bool(part.isfinite().all()) for part in fused), name
        return
    with gk.use_backend("reference"):
        expected = value_and_gradient(LOSSES[name], logits, target)
    for ours, reference in zip(fused, expected, strict=True):
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(
            ours, reference, rtol=tolerance, atol=tolerance * float(reference.abs().max())
        )


def check_compiled() -> None:
    """One graph, with the numbers of eager calls; traced only, so that no compiler is needed."""
    loss = LOSSES["dice + fog"]
    logits, target = torch.randn(1, 3, 8, 8, 8), torch.randint(0, 3, (1, 1, 8, 8, 8))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(
        value_and_gradient(compiled, logits, target), value_and_gradient(loss, logits, target), strict=True
    ):
        assert torch.equal(ours, eager)


def main() -> None:
    info = gk.build_info()
    assert info["backends"]["cpu"] is None, info["backends"]["cpu"]
    assert Path(gk.__file__).is_relative_to(sys.prefix), gk.__file__
    for name in LOSSES:
        for dtype in TOLERANCES:
            check(name, dtype)
    check_compiled()
    print(
        f"{len(LOSSES)} losses agree: Python {sys.version.split()[0]}, torch {info['torch']}, "
        f"{info['cpu_instruction_set']}"
    )


if __name__ == "__main__":
    main()
