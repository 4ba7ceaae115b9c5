"""Do losses give the same bits again: 50 times, in a CUDA graph, on two streams, under torch.compile?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

import geoloss_kernels as gk
from bench.inputs import make_volumes

RUNS = 50
EDGE = {"cuda": 96, "cpu": 16}
Loss = Callable[[Tensor, Tensor], Tensor]
Result = tuple[Tensor, Tensor]
"""A loss and its gradient."""


def losses(device: str) -> Iterator[tuple[str, Loss, Tensor, Tensor]]:
    """Names, losses, inputs and targets."""
    edge = EDGE[device]
    for dtype in (torch.float32, torch.bfloat16):
        binary = make_volumes((2, 1, edge, edge, edge), dtype).to(device)
        yield f"Dice + FOG, {dtype}", gk.DiceFOGLoss(sigmoid=True), binary.logits, binary.target
        classes = make_volumes((1, 4, edge, edge, edge), dtype).to(device)
        mixed = gk.FormulaLoss(
            gk.formulas.dice() + gk.formulas.cross_entropy() + gk.formulas.fog(),
            softmax=True,
            to_onehot_y=True,
        )
        yield f"Dice + CE + FOG of labels, {dtype}", mixed, classes.logits, classes.labels


def evaluate(loss: Loss, input: Tensor, target: Tensor) -> Result:
    leaf = input.detach().clone().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def same(one: Result, other: Result) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def runs_agree(loss: Loss, input: Tensor, target: Tensor) -> bool:
    first = evaluate(loss, input, target)
    return all(same(evaluate(loss, input, target), first) for _ in range(RUNS - 1))


def streams_agree(loss: Loss, input: Tensor, target: Tensor) -> bool:
    """Two streams at once, against one."""
    alone = evaluate(loss, input, target)
    streams = [_stream(input), _stream(input)]
    results = []
    for _ in range(RUNS // 2):
        for stream in streams:
            with stream:
                results.append(evaluate(loss, input, target))
    _synchronize(input)
    return all(same(result, alone) for result in results)


def graph_agrees(loss: Loss, input: Tensor, target: Tensor) -> bool:
    """A training step in a CUDA graph, replayed on a new weight, against the same step without one."""
    weight = torch.ones((), device=input.device, requires_grad=True)
    weight.grad = torch.zeros_like(weight)

    def step() -> Tensor:
        weight.grad.zero_()
        value = loss(weight * input.float(), target)
        value.backward()
        return value.detach()

    replay, captured = _capture(step, input)
    agree = True
    for _ in range(3):
        with torch.no_grad():
            weight.add_(0.1)
        replay()
        replayed = captured().clone(), weight.grad.clone()
        agree &= same(replayed, (step(), weight.grad))
    return agree


def compiled_agrees(loss: Loss, input: Tensor, target: Tensor) -> bool:
    torch.compiler.reset()
    return same(evaluate(torch.compile(loss, fullgraph=True), input, target), evaluate(loss, input, target))


CHECKS = (runs_agree, streams_agree, graph_agrees, compiled_agrees)


def _stream(input: Tensor) -> AbstractContextManager[object]:
    if not input.is_cuda:
        return nullcontext()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    return torch.cuda.stream(stream)


def _synchronize(input: Tensor) -> None:
    if input.is_cuda:
        torch.cuda.synchronize()


def _capture(step: Callable[[], Tensor], input: Tensor) -> tuple[Callable[[], object], Callable[[], Tensor]]:
    """What replays the step, and what gives its last value."""
    if not input.is_cuda:
        values: list[Tensor] = [step()]
        return lambda: values.append(step()), lambda: values[-1]
    with _stream(input):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()
    return graph.replay, lambda: value


def main(device: str) -> int:
    """Print a line per loss and check; the exit code is 1 if one differs."""
    passed = total = 0
    for name, loss, input, target in losses(device):
        for check in CHECKS:
            total += 1
            try:
                verdict = "pass" if check(loss, input, target) else "FAIL: other bits"
            except Exception as error:  # the other checks are wanted all the same
                verdict = f"FAIL: {type(error).__name__}: {error}".splitlines()[0]
            passed += verdict == "pass"
            print(f"{verdict}: {check.__name__}: {name}", flush=True)
    print(f"{passed} of {total} passed")
    return 0 if passed == total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
