"""The count of machine instructions, on a listing that is written by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import sass

NAME = "void geoloss::cuda::geo_sums_march_{}_kernel<geoloss::cuda::MarchTraits<{}> >(LaunchParams)"
FOG = "geoloss::BFloat16, unsigned char, geoloss::stencil::FirstOrderForwardL2, 14u, 1"
BODY = (
    "MOV R1, c[0x0][0x28]",
    "IADD3 R5, R5, 0x1, RZ",
    "@P0 BRA 0x10",
    "LDG.E.64 R2, desc[UR4][R2.64]",
    "F2FP.BF16.F32.PACK_AB R7, R7, R10",
    "@!P2 FMUL R3, R3, R3",
    "MUFU.RSQ R3, R3",
    "STS.128 [R3], R4",
    "BAR.SYNC.DEFER_BLOCKING 0x0",
    "@!P2 BRA 0x30",
    "EXIT",
)


def listing(name: str) -> str:
    lines = [
        f"        /*{16 * i:04x}*/                   {text} ;   /* 0x0 */" for i, text in enumerate(BODY)
    ]
    return "\n".join([f"\t\tFunction : {name}", *lines])


@pytest.fixture
def kernel(monkeypatch) -> sass.Kernel:
    text = listing(NAME.format("backward", FOG)) + "\n" + listing("void other(int)")
    monkeypatch.setattr(sass, "_output", lambda *_: text)
    (kernel,) = sass.kernels("march.cubin")
    return kernel


def test_title(kernel):
    assert kernel.title == "backward, BFloat16, unsigned char, FOG, terms 0x000e, channels 1"


def test_loop_is_the_one_with_loads_and_a_barrier(kernel):
    loop = kernel.loop()
    assert [loop[0].name, loop[-1].name, len(loop)] == ["LDG", "BRA", 7]


def test_classes(kernel):
    counts = Counter(map(sass.class_of, kernel.loop()))
    expected = {"global": 1, "float": 2, "special": 1, "shared": 1, "branch, barrier": 2}
    assert counts == expected
    assert sass.class_of(kernel.body[1]) == sass.INTEGER


def test_table(kernel, capsys):
    sass.main(["march.cubin"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.split(" | ")[:3] == [f"| {kernel.title}", "1.8", "0.5"]
