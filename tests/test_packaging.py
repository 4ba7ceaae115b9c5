"""What an installation brings: light imports, a wheel without a compiler, clear words when building fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import torch

import geoloss_kernels as gk

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "csrc", "geoloss_kernels")
BUILD_VARIABLES = ("GEOLOSS_", "CXX", "CUDA_", "TORCH_CUDA_")
OPTIONAL = ("scipy", "monai", "nibabel", "matplotlib", "tensorboard", "tqdm", "nilearn", "skimage", "triton")


def run(
    *command: str, directory: Path = REPOSITORY, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Python with ``command``, in ``directory`` and without the environment's choices."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(BUILD_VARIABLES)}
    if path is not None:
        kept["PATH"] = str(path)
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def without(modules: tuple[str, ...], program: str) -> str:
    """``program`` where ``modules`` cannot be imported."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r})); {program}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a release is made from, so that building leaves the checkout alone."""
    copy = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, copy)
    return copy


class TestImport:
    def test_the_core_imports_nothing_optional(self):
        program = (
            "import sys; before = set(sys.modules); import torch; with_torch = set(sys.modules); "
            f"import geoloss_kernels; print(sorted({set(OPTIONAL)!r} & (set(sys.modules) - with_torch)))"
        )
        assert run("-c", program).stdout.strip() == "[]"

    def test_the_core_needs_torch_alone(self):
        program = without(
            (*OPTIONAL, "numpy"),
            "import torch, geoloss_kernels as gk; s = torch.rand(1, 1, 3, 4, 5).requires_grad_(); "
            "gk.DiceFOGLoss()(s, torch.ones(1, 1, 3, 4, 5)).backward(); print(s.grad.shape)",
        )
        result = run("-c", program)
        assert result.stdout.strip() == "torch.Size([1, 1, 3, 4, 5])", result.stderr

    def test_distance_maps_need_torch_alone(self):
        program = without(
            (*OPTIONAL, "numpy"),
            "import torch, geoloss_kernels as gk; s = torch.rand(1, 1, 3, 4); "
            "print(gk.HausdorffDTLoss()(s, s.round()).item() > 0)",
        )
        result = run("-c", program)
        assert result.stdout.strip() == "True", result.stderr

    def test_distance_maps_of_the_reference_need_scipy_and_say_so(self):
        program = without(
            ("scipy",),
            "import torch, geoloss_kernels as gk; s = torch.rand(1, 1, 3, 4); gk.use_backend('reference'); "
            "print(gk.BoundaryLoss()(s, s, distance_map=s).item() > 0); gk.BoundaryLoss()(s, s.round())",
        )
        result = run("-c", program)
        assert result.stdout.strip() == "True"
        assert "ModuleNotFoundError" in result.stderr
        assert "scipy" in result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    result = run(
        *("-m", "pip", "--disable-pip-version-check", "wheel", "--no-build-isolation", "--no-deps"),
        *("--no-index", "--wheel-dir", str(folder), str(sources)),
        path=folder,
        GEOLOSS_BUILD="none",
    )
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


class TestPurePythonWheel:
    """GEOLOSS_BUILD=none: no compiler is asked for, and the reference computes the losses."""

    def test_its_name_and_contents(self, wheel):
        assert wheel.name == f"geoloss_kernels-{gk.__version__}-py3-none-any.whl"
        names = zipfile.ZipFile(wheel).namelist()
        modules = {
            str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "geoloss_kernels").rglob("*.py")
        }
        assert modules <= set(names)
        assert not [name for name in names if name.endswith((".so", ".cpp", ".h"))]
        assert not [name for name in names if name.startswith(("tests/", "bench/", "csrc/"))]

    def test_its_metadata(self, wheel):
        metadata = metadata_of(wheel)
        assert metadata["Version"] == gk.__version__
        required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
        assert [line.split(">")[0] for line in required] == ["torch"]

    def test_it_works(self, installed):
        program = (
            "import torch, geoloss_kernels as gk; print(gk.__file__); "
            "s = torch.rand(1, 1, 3, 4, 5).requires_grad_(); "
            "gk.DiceFOGLoss()(s, torch.ones(1, 1, 3, 4, 5)).backward(); print(bool(s.grad.isfinite().all()))"
        )
        result = run("-c", program, directory=installed)
        file, works = result.stdout.split()
        assert file.startswith(str(installed))
        assert works == "True"
        assert "UserWarning: geoloss_kernels computes losses on cpu tensors with its PyTorch reference" in (
            result.stderr
        )
        assert "GEOLOSS_BUILD=none" in result.stderr


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_source_distribution_holds_every_source(sources, tmp_path, choice):
    result = run(
        "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path), directory=sources, GEOLOSS_BUILD=choice
    )
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    expected = {
        str(file.relative_to(sources))
        for folder in ("csrc", "geoloss_kernels")
        for file in (sources / folder).rglob("*.*")
    }
    assert {"setup.py", "pyproject.toml", "LICENSE", *expected} <= names


class TestBuilding:
    @pytest.fixture
    def no_compiler(self, tmp_path: Path) -> Path:
        """A PATH without any program."""
        (tmp_path / "empty").mkdir()
        return tmp_path / "empty"

    def test_without_torch_one_sentence_says_what_to_do(self, sources):
        program = without(
            ("torch",),
            "import runpy; sys.argv = ['setup.py', '--version']; "
            "runpy.run_path('setup.py', run_name='__main__')",
        )
        result = run("-c", program, directory=sources)
        assert result.returncode == 1
        assert "install torch >= 2.11 first" in result.stderr
        assert "pip install --no-build-isolation" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    def test_an_unknown_choice(self, sources):
        result = run("setup.py", "--version", directory=sources, GEOLOSS_BUILD="bogus")
        assert result.returncode == 1
        assert result.stderr.strip().startswith("GEOLOSS_BUILD: expected auto, ")
        assert result.stderr.strip().endswith("got 'bogus'")

    @pytest.mark.parametrize("compiler", [None, "no-such-compiler -O2"])
    def test_auto_without_a_compiler_says_so_and_goes_on(self, sources, no_compiler, compiler):
        environment = {} if compiler is None else {"CXX": compiler}
        result = run(
            "setup.py",
            "-q",
            "build_ext",
            directory=sources,
            path=no_compiler,
            GEOLOSS_BUILD="auto",
            **environment,
        )
        assert result.returncode == 0, result.stderr
        name = "c++" if compiler is None else "no-such-compiler"
        assert f"no C++ compiler ({name}) found; installing without the fused operators" in result.stderr
        assert not list(sources.rglob("*.so"))

    def test_insisting_without_a_compiler_is_an_error(self, sources, no_compiler, tmp_path):
        result = run(
            *("setup.py", "-q", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)),
            directory=sources,
            path=no_compiler,
            GEOLOSS_BUILD="cpu",
        )
        assert result.returncode != 0
        assert "error" in result.stderr
        assert not list(tmp_path.rglob("*.so"))

    def extensions(
        self, sources: Path, before: str = "", cuda: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Asked for its files, the build names the libraries, without compiling them; torch has ``cuda``."""
        program = (
            f"{before}import runpy, setuptools, torch; torch.version.cuda = {cuda!r}; "
            "setuptools.setup = lambda **k: print([e.name for e in k['ext_modules']]); "
            "runpy.run_path('setup.py')"
        )
        return run("-c", program, directory=sources, **environment)

    @pytest.mark.parametrize(
        ("choice", "cuda", "expected"),
        [
            ("auto", None, ["geoloss_kernels._C"]),
            ("auto", "13.0", ["geoloss_kernels._C", "geoloss_kernels._C_cuda"]),
            ("cpu", "13.0", ["geoloss_kernels._C"]),
            ("cuda", "13.0", ["geoloss_kernels._C", "geoloss_kernels._C_cuda"]),
            ("none", "13.0", []),
        ],
    )
    def test_what_a_choice_builds(self, sources, tmp_path, choice, cuda, expected):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "nvcc").touch()
        environment = {"GEOLOSS_BUILD": choice, "CUDA_HOME": str(tmp_path)}
        assert shutil.which("c++") is not None
        result = self.extensions(sources, cuda=cuda, **environment)
        assert result.stdout.strip() == str(expected), result.stderr
        assert result.stderr == ""

    def test_insisting_on_cuda_beside_a_torch_without_it(self, sources):
        result = self.extensions(sources, GEOLOSS_BUILD="cuda")
        assert result.returncode == 1
        assert result.stderr.strip() == f"GEOLOSS_BUILD=cuda: torch {torch.__version__} is built without CUDA"

    @pytest.mark.parametrize("choice", ["auto", "cuda"])
    def test_cuda_without_nvcc(self, sources, choice):
        """Also where there is one: the build does not see it."""
        blind = "import os, pathlib; pathlib.Path.exists = lambda p: p.name != 'nvcc' and os.path.exists(p); "
        result = self.extensions(sources, blind, cuda="13.0", GEOLOSS_BUILD=choice)
        assert "no CUDA compiler (nvcc) found" in result.stderr
        assert result.returncode == (choice == "cuda")
        if choice == "auto":
            assert "Losses of CUDA tensors will use Triton" in result.stderr
            assert result.stdout.strip() == "['geoloss_kernels._C']"

    @pytest.mark.parametrize(
        ("named", "flags"),
        [
            ("9.0", ["-gencode=arch=compute_90,code=sm_90"]),
            (
                "8.0;12.0+PTX",
                [
                    "-gencode=arch=compute_80,code=sm_80",
                    "-gencode=arch=compute_120,code=sm_120",
                    "-gencode=arch=compute_120,code=compute_120",
                ],
            ),
        ],
    )
    def test_architectures_of_the_environment(self, sources, named, flags):
        program = (
            "import runpy, setuptools; setuptools.setup = lambda **k: None; s = runpy.run_path('setup.py'); "
            "print([f for a in s['cuda_architectures']() for f in s['code_generation'](a)])"
        )
        result = run("-c", program, directory=sources, TORCH_CUDA_ARCH_LIST=named)
        assert result.stdout.strip() == str(flags), result.stderr
