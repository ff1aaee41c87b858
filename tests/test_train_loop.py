"""The optimizer of the training binary, and when training ends."""

import keras
import numpy as np
import pytest
from runs import small

from keras_prune_init.train import config_checks, default_config, run
from keras_prune_init.train.optimizer import learning_rate, total_steps


def rates(steps=range(81), steps_per_epoch=10, **values):
    """The learning rates at `steps` of 8 epochs."""
    config = default_config.get_config()
    config.train.update({"epochs": 8, "learning_rate": 0.4} | values)
    config_checks.check_config(config)
    return np.array([learning_rate(config.train, steps_per_epoch, s) for s in steps])


def test_step_schedule_changes_at_half_and_three_quarters():
    rate = rates(schedule="step", warmup_epochs=0.0)
    expected = np.repeat([0.4, 0.04, 0.004], [40, 20, 21])
    np.testing.assert_allclose(rate, expected, rtol=1e-6)


def test_cosine_schedule_warms_up_and_ends_at_zero():
    rate = rates(schedule="cosine", warmup_epochs=1.5)
    np.testing.assert_allclose(rate[:16], 0.4 * np.arange(16) / 15, rtol=1e-5)
    assert (np.diff(rate[15:]) < 0).all() and rate[-1] == 0
    assert rates(schedule="cosine", warmup_epochs=0.0)[0] == pytest.approx(0.4)


def test_step_schedule_drops_where_told():
    rate = rates(schedule="step", warmup_epochs=0.0, drops=(0.25,))
    np.testing.assert_allclose(rate, np.repeat([0.4, 0.04], [20, 61]), rtol=1e-6)


def test_thirds_of_the_training_are_whole_epochs():
    # Epochs 30 and 60 of ImageNet's 90; a third is no binary fraction.
    values = {"epochs": 90, "drops": (1 / 3, 2 / 3), "schedule": "step"}
    drops = [30 * 5004 - 1, 30 * 5004, 60 * 5004 - 1, 60 * 5004]
    rate = rates(drops, 5004, warmup_epochs=0.0, **values)
    np.testing.assert_allclose(rate, [0.4, 0.04, 0.04, 0.004], rtol=1e-6)


def test_constant_schedule_stays():
    assert set(rates(schedule="constant", warmup_epochs=0.0)) == {0.4}


def test_steps_take_the_place_of_epochs():
    config = default_config.get_config().train
    assert total_steps(config, 10) == 60
    config.steps = 25
    assert total_steps(config, 10) == 25
    config.update(schedule="step", warmup_epochs=0.0, learning_rate=0.4)
    expected = [0.4, 0.04, 0.04, 0.004]  # drops after 12.5, 18.75 of 25 steps
    actual = [learning_rate(config, 10, step) for step in (11, 12, 18, 19)]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("mix", ["", "mixup"])
def test_a_step_is_traced_once(mix, tmp_path, monkeypatch, undrawn):
    traced, step = [], keras.Model.train_step

    def counted(model, data):
        traced.append(model)
        return step(model, data)

    monkeypatch.setattr(keras.Model, "train_step", counted)
    config = small(tmp_path)
    config.data.mix = mix
    run.run(config, tmp_path / "run")
    assert len(traced) == 1
