"""The choice of a backend: by default, by name, by environment, and without the compiled operators."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import geoloss_kernels as gk
from geoloss_kernels import backends

PACKAGE = Path(gk.__file__).parent
NAMES = ("cpu", "cuda", "triton", "reference")
UNAVAILABLE = [name for name, reason in backends.available().items() if reason is not None]


@pytest.fixture(autouse=True)
def default_again() -> Iterator[None]:
    yield
    gk.use_backend(None)


def run(program: str, directory: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """``program`` in a fresh process; with ``directory``, the package is imported from there."""
    kept = {name: value for name, value in os.environ.items() if name != "GEOLOSS_BACKEND"}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        cwd=directory or PACKAGE.parent,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class Calls:
    """Stands before an operator and counts."""

    def __init__(self, operator: Any) -> None:
        self.operator, self.count = operator, 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        return self.operator(*arguments)


@pytest.fixture
def reference_calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    operators = backends._operators["reference"]
    calls = Calls(operators.geo_loss)
    monkeypatch.setitem(backends._operators, "reference", operators._replace(geo_loss=calls))
    return calls


LABELS: Any = {"softmax": True, "to_onehot_y": True}
OF_LABELS = [
    gk.DiceCELoss(**LABELS, weight=[1.0, 2.0, 3.0]),
    gk.DiceFOGLoss(**LABELS),
    gk.SOGLoss(**LABELS, two_sided=True),
    gk.GeneralizedDiceLoss(**LABELS),
    gk.FocalLoss(to_onehot_y=True, weight=[1.0, 2.0, 3.0]),
    gk.GEOLoss(lambda s, g: (s - g).abs(), lambda s, g, phi: gk.norm(phi(s)), gk.phi.sobel(), **LABELS),
]


class DevicesOfDoubles(TorchDispatchMode):
    """Notes on which devices operators make float64 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()
        self.calls = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.calls += 1
        self.devices |= {
            leaf.device.type
            for leaf in tree_leaves(made)
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64
        }
        return made


def compute_a_loss() -> torch.Tensor:
    volume = torch.linspace(0, 1, 24).view(1, 1, 2, 3, 4)
    return gk.DiceFOGLoss()(volume, volume.round())


class TestAvailable:
    def test_every_backend_is_usable_or_has_a_reason(self):
        reasons = backends.available()
        assert tuple(reasons) == NAMES == backends.BACKENDS
        assert reasons["reference"] is None
        assert reasons["cpu"] is None
        assert all(reason is None or len(reason) > 20 for reason in reasons.values())

    def test_the_answer_is_a_copy(self):
        backends.available()["cpu"] = "broken"
        assert backends.available()["cpu"] is None

    def test_build_info(self):
        info = gk.build_info()
        assert info["geoloss_kernels"] == gk.__version__
        assert info["torch"] == torch.__version__
        assert info["cpu_instruction_set"] in ("baseline", "avx2", "avx512")
        assert info["backends"] == backends.available()


class TestChoice:
    def test_fused_by_default(self, reference_calls):
        compute_a_loss()
        assert backends.choose(torch.ones(1)) == "cpu"
        assert reference_calls.count == 0

    def test_as_a_function(self, reference_calls):
        fused = compute_a_loss()
        gk.use_backend("reference")
        torch.testing.assert_close(compute_a_loss(), fused, rtol=1e-6, atol=0)
        assert reference_calls.count == 1
        gk.use_backend("cpu")
        assert torch.equal(compute_a_loss(), fused)
        gk.use_backend(None)
        compute_a_loss()
        assert reference_calls.count == 1

    def test_in_a_block(self, reference_calls):
        with gk.use_backend("reference"):
            compute_a_loss()
            with gk.use_backend("cpu"):
                compute_a_loss()
            assert backends.choose(torch.ones(1)) == "reference"
        compute_a_loss()
        assert reference_calls.count == 1

    def test_a_block_ends_with_an_error_too(self):
        with pytest.raises(KeyError), gk.use_backend("reference"):
            raise KeyError
        assert backends.choose(torch.ones(1)) == "cpu"

    def test_the_gradient_keeps_to_the_backend_of_its_loss(self, reference_calls):
        volume = torch.rand(1, 1, 3, 4).requires_grad_()
        loss = gk.DiceLoss()(volume, torch.ones_like(volume).detach())
        with gk.use_backend("reference"):
            loss.backward()
        assert volume.grad is not None
        assert reference_calls.count == 0

    def test_a_device_without_fused_backend_uses_the_reference_and_says_so_once(self, monkeypatch):
        monkeypatch.setattr(backends, "_said", set())
        volume = torch.empty(1, 1, 3, 4, device="meta")
        expected = (
            "losses on meta tensors with its PyTorch reference (there are kernels for cpu and cuda tensors)"
        )
        with pytest.warns(UserWarning, match=re.escape(expected)):
            loss = gk.DiceLoss()(volume, volume)
        assert loss.device.type == "meta"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gk.DiceLoss()(volume, volume)

    @pytest.mark.filterwarnings("ignore:geoloss_kernels computes losses on meta tensors")
    @pytest.mark.parametrize("loss", OF_LABELS, ids=lambda loss: type(loss).__name__)
    def test_such_a_device_gets_no_float64(self, loss):
        """MPS has none; "meta" stands in for it."""
        input = torch.empty(2, 3, 5, 6, 7, device="meta", requires_grad=True)
        target = torch.empty(2, 1, 5, 6, 7, device="meta", dtype=torch.uint8)
        with DevicesOfDoubles() as doubles:
            loss(input, target).backward()
        assert input.grad is not None
        assert "meta" not in doubles.devices
        assert doubles.calls > 0


class TestRefusals:
    def test_unknown_name(self):
        with pytest.raises(
            ValueError, match="backend: expected one of cpu, cuda, triton, reference, got 'gpu'"
        ):
            gk.use_backend("gpu")

    @pytest.mark.parametrize("name", UNAVAILABLE)
    def test_unavailable(self, name):
        with pytest.raises(RuntimeError, match=f"backend: '{name}' cannot be used here: ") as caught:
            gk.use_backend(name)
        assert str(backends.available()[name]) in str(caught.value)
        assert backends.choose(torch.ones(1)) == "cpu"

    def test_a_device_that_the_backend_in_force_does_not_know(self):
        volume = torch.empty(1, 1, 3, 4, device="meta")
        with gk.use_backend("cpu"), pytest.raises(RuntimeError, match=r"'cpu' is in force .* on meta"):
            gk.DiceLoss()(volume, volume)


CHOSEN = "import torch, geoloss_kernels as gk; print(gk.backends.choose(torch.ones(1)))"


class TestEnvironment:
    @pytest.mark.parametrize(("value", "chosen"), [("reference", "reference"), ("cpu", "cpu"), ("", "cpu")])
    def test_sets_the_backend(self, value, chosen):
        assert run(CHOSEN, GEOLOSS_BACKEND=value).stdout.strip() == chosen

    @pytest.mark.parametrize("value", ["gpu", *UNAVAILABLE])
    def test_a_choice_that_cannot_be_honoured_is_an_error(self, value):
        result = run(CHOSEN, GEOLOSS_BACKEND=value)
        assert result.returncode != 0
        expected = f"backend: '{value}' cannot be used here" if value in NAMES else "backend: expected one of"
        assert expected in result.stderr


LOSS = """
import json, torch, warnings, geoloss_kernels as gk
volume = torch.linspace(0, 1, 24).view(1, 1, 2, 3, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    values = [gk.DiceFOGLoss()(volume, volume.round()).item() for _ in range(3)]
print(json.dumps({
    "file": gk.__file__,
    "values": values,
    "warnings": [str(each.message) for each in caught],
    "cpu": gk.backends.available()["cpu"],
    "instructions": gk.build_info()["cpu_instruction_set"],
}))
"""


class TestWithoutCompiledOperators:
    """A copy of the package whose library is missing or broken."""

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        ignore = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=ignore)
        return tmp_path

    def report(self, directory: Path) -> dict[str, Any]:
        result = run(LOSS, directory)
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout)
        assert report["file"].startswith(str(directory))
        return report

    def test_missing_library_means_the_reference_and_one_warning(self, copy):
        report = self.report(copy)
        assert report["values"] == pytest.approx([compute_a_loss().item()] * 3, rel=1e-6)
        assert "installed without its operators" in report["cpu"]
        assert report["instructions"] is None
        (warning,) = report["warnings"]
        assert "computes losses on cpu tensors with its PyTorch reference" in warning
        assert report["cpu"] in warning

    def test_broken_library_says_why(self, copy):
        (copy / PACKAGE.name / "_C.abi3.so").write_bytes(b"not a library")
        report = self.report(copy)
        assert report["values"] == pytest.approx([compute_a_loss().item()] * 3, rel=1e-6)
        assert f"do not load beside torch {torch.__version__}" in report["cpu"]
        assert report["cpu"] in report["warnings"][0]

    def test_insisting_on_the_operators_is_an_error(self, copy):
        result = run(LOSS, copy, GEOLOSS_BACKEND="cpu")
        assert result.returncode != 0
        assert "RuntimeError: backend: 'cpu' cannot be used here: the package was inst" in result.stderr

    def test_asking_for_the_reference_needs_no_warning(self, copy):
        result = run(LOSS.replace("print(", "assert not caught; print("), copy, GEOLOSS_BACKEND="reference")
        assert result.returncode == 0, result.stderr
