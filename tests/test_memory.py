"""Peak memory of the fused pass, measured as the high-water mark of a fresh process.

Beyond input, target and gradient, forward and backward take less than 1 MB; the reference's need at the same
volume shows that the measurement would see it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MEGABYTE = 2**20
VOLUME = (2, 1, 128, 128, 128)
VOLUME_BYTES = 4 * 2 * 128**3

MEASURE = f"""
import json, sys
import torch
import geoloss_kernels as gk

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

def peak(function):
    \"\"\"The most bytes that the process has while the function runs, and its result.\"\"\"
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark
    result = function()
    return status("VmHWM"), result

torch.set_num_threads(2)
loss = getattr(gk, sys.argv[2])(sigmoid=True)
with gk.use_backend(sys.argv[1]):
    for _ in range(3):  # threads and allocators come into being, code is loaded
        small = torch.randn(2, 1, 20, 20, 20, requires_grad=True)
        loss(small, torch.ones(2, 1, 20, 20, 20)).backward()
    logits = torch.randn({VOLUME}).requires_grad_()
    target = (torch.rand({VOLUME}) > 0.7).float()
    before = status("VmRSS")
    forward, value = peak(lambda: loss(logits, target))
    backward, _ = peak(value.backward)
assert logits.grad.count_nonzero() > 0
print(json.dumps([forward - before, backward - before - {VOLUME_BYTES}]))
"""


def peak_memory(backend: str, loss: str) -> list[int]:
    """Bytes that forward, and backward with all that it needs from forward, take beside their tensors."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, backend, loss], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("loss", ["DiceFOGLoss", "DiceLoss", "DiceSOGLoss"])
def test_fused_pass_takes_less_than_a_megabyte(loss):
    forward, backward = peak_memory("cpu", loss)
    assert forward < MEGABYTE
    assert -MEGABYTE < backward < MEGABYTE


def test_the_measurement_sees_what_the_reference_takes():
    forward, backward = peak_memory("reference", "DiceFOGLoss")
    assert forward > 5 * VOLUME_BYTES
    assert backward > 5 * VOLUME_BYTES
