import pytest

from video_dit.config import TrainingConfig
from video_dit.training.schedule import ema_decay, learning_rate_factor


def test_warm_up_then_half_a_cosine_to_zero() -> None:
    config = TrainingConfig(steps=110, warmup_steps=10, schedule="cosine")
    assert [learning_rate_factor(step, config) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [learning_rate_factor(step, config) for step in (10, 60, 110)] == pytest.approx([1.0, 0.5, 0.0])


def test_constant_stays() -> None:
    config = TrainingConfig(steps=100, warmup_steps=0, schedule="constant")
    assert {learning_rate_factor(step, config) for step in range(100)} == {1.0}


def test_wsd_is_constant_and_then_goes_down_in_a_line() -> None:
    config = TrainingConfig(steps=100, warmup_steps=10, schedule="wsd", decay_fraction=0.2)
    factors = [learning_rate_factor(step, config) for step in (9, 50, 80, 90, 95)]
    assert factors == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.25])


def test_averaging_starts_short_and_reaches_its_decay() -> None:
    config = TrainingConfig(ema_decay=0.9)
    assert ema_decay(0, config) == pytest.approx(0.1)
    assert ema_decay(10, config) == pytest.approx(0.55)
    assert ema_decay(1000, config) == 0.9
