from __future__ import annotations

from pathlib import Path

import pytest

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.training.config import TrainingConfig, load_config


def test_defaults_are_the_papers_recipe() -> None:
    config = TrainingConfig()
    assert (config.loss, config.loss_coefficient) == ("dice+fog", 1.0)
    assert (config.epochs, config.batch_size) == (100, 4)
    assert (config.learning_rate, config.weight_decay, config.milestones) == (1e-3, 1e-6, (0.5, 0.7, 0.9))


def test_schedule_needs_a_loss_of_two_terms() -> None:
    assert TrainingConfig(loss="dice+hausdorff", loss_schedule="increase").loss_schedule == "increase"
    assert TrainingConfig(loss="dice", loss_schedule="constant").loss_schedule == "constant"
    with pytest.raises(InputError, match="loss_schedule: expected constant for dice"):
        TrainingConfig(loss="dice", loss_schedule="rebalance")
    with pytest.raises(InputError, match="loss_schedule: expected one of constant, increase, rebalance"):
        TrainingConfig(loss_schedule="decrease")


def test_toml_round_trip(tmp_path: Path) -> None:
    config = TrainingConfig.from_mapping(
        {
            "steps_per_epoch": 3,
            "weight_decay": 1e-6,
            "strides": [[2, 2, 1], 2, 2],
            "loss": "bce",
            "cache": False,
        }
    )
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert load_config(path) == config
    assert "lesion_label" not in path.read_text()


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('epochs = 5\nloss = "dice"\nsteps_per_epoch = 9\n')
    overrides = [
        "loss=dice+sog",
        "patch_size=32",
        "learning_rate=1",
        "steps_per_epoch=none",
        'modalities=["t1"]',
    ]
    config = load_config(path, overrides)
    assert (config.epochs, config.loss, config.steps_per_epoch) == (5, "dice+sog", None)
    assert config.patch_size == (32, 32, 32)
    assert config.learning_rate == 1.0
    assert config.modalities == ("t1",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "epoch: unknown configuration key; did you mean epochs?"),
        ("zzz=3", "zzz: unknown configuration key; known keys: loss, "),
        ("epochs", "--set epochs: expected key=value"),
        ("epochs=many", "epochs: expected int, got 'many'"),
        ("epochs=true", "epochs: expected int, got True"),
        ("epochs=0", "epochs: expected a finite number, at least 1, got 0"),
        ("learning_rate=0", "learning_rate: expected a finite number above 0"),
        ("weight_decay=inf", "weight_decay: expected a finite number, at least 0"),
        ("loss=dise", "loss: expected one of dice, dice+fog"),
        ("network=vnet", "network: expected one of unet"),
        ("device=gpu", "device: expected auto, cpu, cuda or cuda:N"),
        ("patch_size=20", r"patch_size: expected multiples of (8, 8, 8), the product of the strides"),
        ("patch_size=[16, 16]", "patch_size: expected 3 values, got 2"),
        ("strides=[2, 2]", "strides: expected 3 levels, one fewer than channels"),
        ("strides=[2, 2, 0]", "strides: expected positive numbers"),
        ("channels=[8]", "channels: expected two or more positive numbers"),
        ("milestones=[0.7, 0.5]", "milestones: expected increasing fractions between 0 and 1"),
        ("milestones=[1.0]", "milestones: expected increasing fractions between 0 and 1"),
        ("milestones=0.5", "milestones: expected a list, got 0.5"),
        ("elastic_strength=0.5", "elastic_strength: expected at least 0 and below 0.5"),
        ("modalities=[]", "modalities: expected one or more different names"),
        ("threshold=1.0", "threshold: expected between 0 and 1, both excluded"),
        ("cache=1", "cache: expected bool, got 1"),
        ("cache=False", "cache: expected bool, got 'False'; TOML writes true or false"),
    ],
)
def test_errors_start_with_the_key(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(None, [override])
    assert str(error.value).startswith(message)


def test_bad_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("epochs = = 3")
    with pytest.raises(InputError, match=r"config.toml: not valid TOML"):
        load_config(path)
