from __future__ import annotations

import pytest

from geoloss_kernels.lesions.training.loss_schedules import SCHEDULES, weights_at
from geoloss_kernels.lesions.training.named_losses import LOSSES


@pytest.mark.parametrize(
    ("schedule", "first", "tenth", "hundredth"),
    [
        ("constant", (1.0, 2.0), (1.0, 2.0), (1.0, 2.0)),
        ("increase", (1.0, 0.02), (1.0, 0.2), (1.0, 2.0)),
        ("rebalance", (1.0, 0.02), (0.91, 0.2), (0.1, 2.0)),
    ],
)
def test_weights_of_the_published_schedules(schedule, first, tenth, hundredth):
    """Kervadec's code: the boundary loss starts at 0.01 and takes 0.01 per epoch, from Dice down to 0.1."""
    for epoch, expected in ((1, first), (10, tenth), (100, hundredth)):
        assert SCHEDULES[schedule](epoch, 2.0, 0.01) == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_boundary_loss_alone_is_rebalanced_by_default(loss):
    default = "rebalance" if loss == "dice+boundary" else "constant"
    assert weights_at(7, loss, 3.0) == SCHEDULES[default](7, 3.0)


def test_unknown_schedule():
    with pytest.raises(
        ValueError, match="schedule: expected one of constant, increase, rebalance, got 'linear'"
    ):
        weights_at(1, "dice", 1.0, "linear")
