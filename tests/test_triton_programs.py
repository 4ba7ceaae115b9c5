"""Open formulas as Triton source: in Triton's interpreter against the functions on tensors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# A process of its own: Triton asks for its interpreter when the functions are declared.
SCRIPT = """
import importlib.util
import os
import tempfile

import torch

from geoloss_kernels.expressions.derivative import derivatives
from geoloss_kernels.expressions.program import compile_program
from geoloss_kernels.expressions.simplify import protect
from geoloss_kernels.triton.programs import triton_function
from tests.random_losses import random_loss
from tests.test_expressions import MOVING, Voxels, slopes_from, traced


def launched(function, fields, constants, outputs):
    names = ", ".join(f"a{i}" for i in range(len(fields) + len(constants)))
    loads = [f"tl.load(a{i} + places)" for i in range(len(fields) + len(constants))]
    given = "({}), ({})".format(*("".join(f"{each}, " for each in part) for part in (
        loads[: len(fields)], loads[len(fields) :]
    )))
    results = "".join(f"r{i}, " for i in range(outputs))
    stores = "\\n".join(f"    tl.store(o{i} + places, r{i})" for i in range(outputs))
    targets = ", ".join(f"o{i}" for i in range(outputs))
    source = (
        f"@triton.jit\\ndef kernel({names}, {targets}, SIZE: tl.constexpr):\\n"
        f"    places = tl.arange(0, SIZE)\\n    ({results}) = program({given})\\n{stores}\\n"
    )
    path = os.path.join(tempfile.mkdtemp(), "kernel.py")
    open(path, "w").write("import triton\\nimport triton.language as tl\\n" + source)
    specification = importlib.util.spec_from_file_location("kernel", path)
    module = importlib.util.module_from_spec(specification)
    module.program = function
    specification.loader.exec_module(module)
    found = [torch.empty(64, dtype=torch.float64) for _ in range(outputs)]
    module.kernel[(1,)](*fields, *constants, *found, SIZE=64)
    return [each.reshape(1, 64) for each in found]


def run(roots, voxels):
    program = compile_program(protect(roots))
    fields = [voxels.field(field).flatten().contiguous() for field in program.fields]
    constants = [torch.full((64,), number, dtype=torch.float64) for number in program.constants]
    return launched(triton_function(program), fields, constants, len(roots))


for seed in range(SEEDS):
    voxels = Voxels(seed, shape=(1, 64))
    psi = random_loss(seed)
    density = traced(psi).density
    moving = sorted(which for which in density.reads if which.kind in MOVING)
    expected = psi(voxels.s, voxels.g, voxels.phi)
    (value,) = run([density], voxels)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-11, msg=str(density))
    leaves = (voxels.s, voxels.of_prediction)
    if not moving or not expected.requires_grad:
        continue
    exact = torch.autograd.grad(expected.sum(), leaves, allow_unused=True, materialize_grads=True)
    slopes = dict(zip(moving, run(derivatives(density, moving), voxels), strict=True))
    for ours, theirs in zip(slopes_from(density, slopes, voxels), exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=str(density))
"""


def test_the_printed_source_computes_values_and_slopes() -> None:
    command = [sys.executable, "-c", SCRIPT.replace("SEEDS", "40")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
