"""Counts the machine instructions of the marching kernel's loop, per voxel.

    nvcc -std=c++20 -O3 --expt-relaxed-constexpr -arch=sm_90 -cubin csrc/cuda/march_float32.cu -o march.cubin
    python -m bench.sass march.cubin

Needs c++filt and cuobjdump (of CUDA's toolkit or the package nvidia-cuda-cuobjdump). A count is of all
instructions between the head of the loop and its branch back, also of a sigmoid that is skipped at run time.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report import table

VOXELS = 4  # of a thread in a plane
CLASSES = {
    "float": r"F(ADD|MUL|FMA|SEL|SETP|SET|MNMX|2F|2FP)|HADD2|HFMA2|I2F",
    "special": r"MUFU",
    "global": r"LDG|STG",
    "shared": r"LDS|STS",
    "branch, barrier": r"BRA|BRX|BAR|BSSY|BSYNC|WARPSYNC|EXIT",
}
INTEGER = "integer, move"


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str

    @property
    def name(self) -> str:
        """Without the predicate in front."""
        return re.sub(r"^@!?U?P\d+\s+", "", self.text).split()[0].split(".")[0]


@dataclass(frozen=True)
class Kernel:
    name: str
    body: Sequence[Instruction]

    def loop(self) -> list[Instruction]:
        """The largest loop that loads from global memory; with a barrier, if any has one."""
        loops = [loop for loop in self._loops() if any(each.name == "LDG" for each in loop)]
        return max(loops, key=lambda loop: (any(each.name == "BAR" for each in loop), len(loop)), default=[])

    def _loops(self) -> Iterator[list[Instruction]]:
        for end in self.body:
            match = re.search(r"\bBRA\b.*\b0x([0-9a-f]+)", end.text)
            if match and int(match[1], 16) < end.address:
                yield [each for each in self.body if int(match[1], 16) <= each.address <= end.address]

    @property
    def title(self) -> str:
        """Direction, dtypes of input and target, stencil, set of terms and number of channels in one pass."""
        traits = re.search(r"MarchTraits<(\S+), (.+?), (.+), (\d+)u, (\d+)>", self.name)
        assert traits is not None
        input, target = (each.split("::")[-1] for each in traits.groups()[:2])
        stencil = "no stencil" if "NoStencil" in traits[3] else "FOG"
        direction = "backward" if "backward" in self.name else "forward"
        terms = f"terms {int(traits[4]):#06x}, channels {traits[5]}"
        return f"{direction}, {input}, {target}, {stencil}, {terms}"


def kernels(cubin: str) -> list[Kernel]:
    """The marching kernels in a cubin or an object file."""
    text = _output(["cuobjdump", "-sass", cubin])
    functions = re.split(r"^\s*Function : ", _output(["c++filt"], text), flags=re.MULTILINE)[1:]
    found = [_kernel(function) for function in functions]
    return [kernel for kernel in found if "geo_sums_march" in kernel.name]


def _kernel(text: str) -> Kernel:
    name, _, body = text.partition("\n")
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?)\s*;", body, flags=re.MULTILINE)
    return Kernel(name, [Instruction(int(address, 16), instruction) for address, instruction in lines])


def class_of(instruction: Instruction) -> str:
    matches = (name for name, pattern in CLASSES.items() if re.fullmatch(pattern, instruction.name))
    return next(matches, INTEGER)


def _output(command: Sequence[str], text: str | None = None) -> str:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def main(cubins: Sequence[str]) -> None:
    headings = ("kernel", "per voxel", *CLASSES, INTEGER, "whole kernel")
    rows = []
    for kernel in (kernel for cubin in cubins for kernel in kernels(cubin)):
        loop = kernel.loop()
        counts = Counter(map(class_of, loop))
        voxels = VOXELS * max(1, sum(each.name == "BAR" for each in loop))  # an unrolled loop has more planes
        shares = [f"{counts[name] / voxels:.1f}" for name in (*CLASSES, INTEGER)]
        rows.append((kernel.title, f"{len(loop) / voxels:.1f}", *shares, str(len(kernel.body))))
    print(table(headings, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
