"""Schedules: exact ends, monotone pieces, no step at rate 0, the same after saving."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

from tfft.config import Phase
from tfft.errors import PlanError
from tfft.optimizers import SCHEDULES, PiecewiseSchedule, build_schedule

PEAK = 0.5
SCHEDULED = [name for name in SCHEDULES if name != "plateau"]


def rates(name: str, steps: int, warmup: float = 0.1, beyond: int = 0) -> np.ndarray:
    schedule = build_schedule(Phase("p", 1, 1, PEAK, warmup=warmup, schedule=name), steps)
    return np.array([float(schedule(step)) for step in range(steps + beyond)])


def test_names():
    assert set(SCHEDULES) == {"cosine", "linear", "constant", "one_cycle", "slanted", "steps", "plateau"}


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
def test_cosine_rises_in_a_line_and_falls_as_a_cosine(steps, warmup):
    rise = min(int(warmup * steps), steps - 1)
    wanted = [PEAK * (k + 1) / (rise + 1) for k in range(rise)]
    wanted += [PEAK * (1 + np.cos(np.pi * k / (steps - rise))) / 2 for k in range(steps - rise)]
    np.testing.assert_allclose(rates("cosine", steps, warmup), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.representative(
    *(f"{n}-{warmup}-{name}" for n in (1, 5, 64) for warmup in (0.0, 0.99) for name in SCHEDULED)
)
@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 10, 64])
def test_every_step_trains_and_none_is_over_the_peak(name, warmup, steps):
    found = rates(name, steps, warmup)
    assert (found > 0).all()
    assert (found <= PEAK * (1 + 1e-6)).all()
    assert found.max() == pytest.approx(PEAK, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULED)
def test_one_step_has_the_whole_rate(name):
    assert rates(name, 1, 0.5) == pytest.approx([PEAK])


@pytest.mark.representative("constant", "slanted", "steps")
@pytest.mark.daily("cosine", "linear", "one_cycle")
@pytest.mark.parametrize("name", SCHEDULED)
def test_it_rises_then_falls(name):
    found = rates(name, 200)
    top = int(found.argmax())
    assert (np.diff(found[: top + 1]) > 0).all()
    assert (np.diff(found[top:]) <= 1e-9).all()
    expected = {"one_cycle": round(0.25 * 199)}.get(name, 20)
    assert top == expected
    if name != "one_cycle":
        assert np.diff(found[: top + 1]) == pytest.approx(found[1] - found[0], rel=1e-4)  # a line


def test_linear_goes_down_in_a_line_to_one_part():
    found = rates("linear", 100)
    assert found[10:] == pytest.approx(PEAK * (100 - np.arange(10, 100)) / 90, rel=1e-5)
    assert found[:11] == pytest.approx(PEAK * np.arange(1, 12) / 11, rel=1e-5)


def test_constant_stays():
    assert rates("constant", 50, 0.1, beyond=20)[5:] == pytest.approx(np.full(65, PEAK))


def test_one_cycle_has_the_ends_of_fastai():
    found = rates("one_cycle", 101)
    assert found[0] == pytest.approx(PEAK / 25, rel=1e-6)
    assert found[25] == np.float32(PEAK)
    assert found[100] == pytest.approx(PEAK / 1e5, rel=1e-6)  # relative: lost where ends are computed as differences
    half = PEAK / 25 + (PEAK - PEAK / 25) * (1 - np.cos(np.pi * 10 / 25)) / 2
    assert found[10] == pytest.approx(half, rel=1e-5)


def test_slanted_is_the_formula_of_ulmfit():
    steps, cut = 200, 20
    t = np.arange(steps)
    p = np.where(t < cut, t / cut, 1 - (t - cut) / (cut * (1 / 0.1 - 1)))
    assert rates("slanted", steps) == pytest.approx(PEAK * (1 + p * (32 - 1)) / 32, rel=1e-5)


@pytest.mark.nightly
def test_steps_are_those_of_bit():
    found = rates("steps", 500, warmup=0.2)
    assert found[:100] == pytest.approx(PEAK * np.arange(1, 101) / 101, rel=1e-5)
    for start, stop, rate in ((100, 200, 1), (200, 300, 0.1), (300, 400, 0.01), (400, 500, 0.001)):
        assert found[start:stop] == pytest.approx(PEAK * rate, rel=1e-5)


def test_a_long_rise_of_steps_ends_before_the_first_tenth():
    found = rates("steps", 100, warmup=0.9)
    assert found[39] == pytest.approx(PEAK)
    assert found[40] == pytest.approx(PEAK / 10)


@pytest.mark.parametrize("name", ["linear", "one_cycle", "slanted", "steps"])
def test_after_the_last_step_the_rate_stays(name):
    found = rates(name, 30, beyond=5)
    assert (found[30:] == found[29]).all()


def test_plateau_is_a_number_that_a_callback_can_set():
    rate = build_schedule(Phase("p", 1, 1, 0.25, schedule="plateau"), 100)
    assert rate == 0.25
    optimizer = keras.optimizers.SGD(rate)
    optimizer.learning_rate = 0.125
    assert float(optimizer.learning_rate) == 0.125


@pytest.mark.parametrize("name", SCHEDULED)
def test_config_round_trip(name):
    schedule = build_schedule(Phase("p", 1, 1, PEAK, schedule=name), 40)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert [float(again(k)) for k in range(45)] == [float(schedule(k)) for k in range(45)]


@pytest.mark.parametrize("name", SCHEDULED)
def test_training_goes_on_at_the_same_rate_after_saving(name, tmp_path: pathlib.Path):
    schedule = build_schedule(Phase("p", 1, 1, PEAK, schedule=name), 12)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), loss="mse")
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    for _ in range(5):
        model.train_on_batch(x, y)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert int(again.optimizer.iterations) == 5
    for _ in range(4):
        assert float(again.optimizer.learning_rate) == float(model.optimizer.learning_rate)
        model.train_on_batch(x, y)
        again.train_on_batch(x, y)
    np.testing.assert_array_equal(model.get_weights()[0], again.get_weights()[0])


def test_unknown_name():
    with pytest.raises(PlanError, match=r"Unknown schedule 'one-cycle'. Did you mean 'one_cycle'\? Schedules: cos"):
        build_schedule(Phase("p", 1, 1, PEAK, schedule="one-cycle"), 10)


def test_no_step():
    with pytest.raises(PlanError, match="at least one step, received 0"):
        build_schedule(Phase("p", 1, 1, PEAK), 0)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "start at step 0"),
        ([(1, 2, 0.1, 0.2)], "start at step 0"),
        ([(0, 2, 0.1, 0.2), (0, 3, 0.1, 0.2)], "follow in order"),
        ([(0, 2, 0.1, 0.2, "square")], "'linear' or 'cosine', received square"),
        ([(0, 2, 0.1, -0.2)], "negative"),
    ],
)
def test_pieces_that_make_no_schedule(pieces, words):
    with pytest.raises(PlanError, match=words):
        PiecewiseSchedule(pieces, 10)
