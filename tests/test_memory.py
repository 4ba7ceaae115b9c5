"""Peak memory of the fused pass, measured as the high-water mark of a fresh process.

Beyond input, target and gradient, forward and backward take less than 1 MB; the reference's need at the same
volume shows that the measurement would see it.
"""

from __future__ import annotations

import json
import os
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


CALLS = 10_000
LEAK = 40
"""Bytes per call that have to be seen."""
NOISE = CALLS * LEAK // 4
"""Bytes that may be in use after so many calls and were not before: caches that grow."""

MEASURE_KEPT = f"""
import ctypes, gc, json
import torch
import geoloss_kernels as gk
from geoloss_kernels.terms import Term, encode

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Allocated(ctypes.Structure):
    _fields_ = [(field, ctypes.c_size_t) for field in FIELDS]

libc.mallinfo2.restype = Allocated

def in_use():
    \"\"\"Bytes allocated and not freed; with PYTHONMALLOC=malloc also those of Python's objects.\"\"\"
    gc.collect()
    allocated = libc.mallinfo2()
    return allocated.uordblks + allocated.hblkhd

def kept(call):
    \"\"\"The bytes more that are in use after many calls.\"\"\"
    for _ in range({CALLS} // 5):
        call()
    before = in_use()
    for _ in range({CALLS}):
        call()
    return in_use() - before

torch.set_num_threads(1)
x = torch.randn(1, 2, 3, 4)
g = torch.randint(0, 2, (1, 1, 3, 4))
names = ["prediction", "intersection", "cross_entropy_background", "map_prediction", "first_order_forward_l2"]
encoded = encode([Term(name, map=0) for name in names], {{0: 0}}, 2, None)
sums_options = ([g], encoded.terms, encoded.parameters, 2, 1, True)
weights = torch.ones(2, 2)
ratio = (weights, [1, 0, 0, -1, 2, 1, 0, 1], [1.0] * 4 * (len(names) + 1), 1)
operators = torch.ops.geoloss
S = operators.geo_sums(x, g, None, *sums_options)
grad_loss = torch.ones(())
loss_options = (None, weights, *sums_options, *ratio[1:])
distances = (g, [1.0, 2.0], 2, 1.0, torch.float32)
leaf = torch.randn(1, 2, 3, 4, requires_grad=True)
options = {{"softmax": True, "to_onehot_y": True}}
dice_ce_fog = gk.DiceCELoss(**options) + 0.5 * gk.FOGLoss(**options)
hausdorff = gk.HausdorffDTLoss(**options)
generalized = gk.GeneralizedDiceLoss(**options)

def step(loss):
    leaf.grad = None
    loss(leaf, g).backward()

calls = {{
    "geo_sums": lambda: operators.geo_sums(x, g, None, *sums_options),
    "geo_sums_backward": lambda: operators.geo_sums_backward(S, x, g, None, *sums_options),
    "geo_ratio": lambda: operators.geo_ratio(S, *ratio),
    "geo_ratio_backward": lambda: operators.geo_ratio_backward(grad_loss, S, *ratio),
    "geo_loss": lambda: operators.geo_loss(x, g, *loss_options),
    "geo_loss_backward": lambda: operators.geo_loss_backward(grad_loss, S, x, g, *loss_options),
    "distance_transform": lambda: operators.distance_transform(*distances),
    "distance_transform_with_indices": lambda: operators.distance_transform_with_indices(*distances),
    "Dice + CE + FOG": lambda: step(dice_ce_fog),
    "Hausdorff": lambda: step(hausdorff),
    "generalized Dice": lambda: step(generalized),
    "a leak": lambda: libc.malloc({LEAK}),
}}
print(json.dumps({{name: kept(call) for name, call in calls.items()}}))
"""


def test_no_call_keeps_memory():
    run = subprocess.run(
        [sys.executable, "-c", MEASURE_KEPT],
        env={**os.environ, "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kept = json.loads(run.stdout)
    assert kept.pop("a leak") >= CALLS * LEAK
    assert {name: grown for name, grown in kept.items() if grown > NOISE} == {}
