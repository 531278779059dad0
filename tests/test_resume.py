"""Trainings that are stopped and go on: killed processes, signals, faults on the disk, other settings.

Most stop in this process, by an error at a chosen step, and go on with a new model; that is as hard as a kill for
everything but the disk, which has its own tests, and allows for many positions.
"""

import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from resume_process import Average, Counter, examples, network

from tfft import training
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.modalities.image import from_arrays
from tfft.training import CheckpointConfig, CheckpointError, CheckpointStore, Resume

slow_fixtures = ("whole", "all_phases")

PROCESS = pathlib.Path(__file__).with_name("resume_process.py")
STEPS = 6  # per epoch


class Power(Exception):
    """The power fails."""


class Fail(keras.callbacks.Callback):
    """Fails at a step counted over everything, in a validation, at the end of an epoch; or calls a function."""

    def __init__(self, at=None, do=None, hook="on_train_batch_end"):
        super().__init__()
        self.count = 0
        self.at, self.do = at, do or self.fail
        setattr(self, hook, self.step)

    @staticmethod
    def fail():
        raise Power

    def step(self, *_, **__):
        self.count += 1
        if self.count == self.at:
            self.do()

    def get_state(self):
        return None  # it counts anew in each run

    def set_state(self, state):
        pass


def fitted(
    folder, fail=None, *, epochs=5, epoch=None, steps=None, rate=1e-2, seed=4, callbacks=None, per_call=1, **more
):
    """One `fit` of Keras with everything that has state; returns what is compared, and the history."""
    keras.utils.set_random_seed(seed)
    model, head = network()
    model.compile(keras.optimizers.Adam(rate), **head.compile_args(), steps_per_execution=per_call)
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    train = from_arrays(*examples(60, 1), batch_size=10, shuffle=True, seed=5, epoch=epoch)
    train = train if steps is None else train.take(steps)
    held_out = from_arrays(*examples(20, 2), batch_size=10)
    counter, average = Counter(), Average()
    early = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True, min_delta=0.01)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, min_delta=0.14)
    own = [early, plateau, counter, average] if callbacks is None else callbacks
    settings = folder if isinstance(folder, CheckpointConfig) else CheckpointConfig(folder, every_steps=1, **more)
    resume = Resume(settings, [*own, fail or Fail()], epoch=epoch, verbose=False)
    history = model.fit(train, validation_data=held_out, epochs=epochs, callbacks=[resume], verbose=0, shuffle=False)
    state = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    state += [counter.steps, *counter.losses, counter.mean, early.wait, early.best, plateau.wait]
    if callbacks is None:
        state += average.average
    state += [v for values in history.history.values() for v in values] + history.epoch
    return [np.asarray(v).tobytes() for v in state], resume, history


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    found, _, history = fitted(tmp_path_factory.mktemp("whole") / "c")
    assert len(history.epoch) in (4, 5)
    assert history.history["learning_rate"][-1] < history.history["learning_rate"][0]
    return found


def stopped(folder, *fails, run=fitted, error=Power, **settings):
    """Lets one run after the other go on until it fails, and the last one to the end."""
    for fail in fails:
        with pytest.raises(error):
            run(folder, fail, **settings)
    return run(folder, **settings)


@pytest.mark.daily("in the second epoch")
@pytest.mark.parametrize("steps", [(9,), (4, 9, 1, 6)], ids=["in the second epoch", "again and again"])
def test_fit_goes_on_from_any_step(tmp_path, whole, steps):
    assert stopped(tmp_path / "c", *map(Fail, steps))[0] == whole
    assert not (tmp_path / "c").exists()


@pytest.mark.nightly
def test_fit_goes_on_from_where_no_step_is_made(tmp_path, whole):
    hooks = {"on_epoch_end": 2, "on_test_batch_end": 3, "on_epoch_begin": 2, "on_train_end": 1}
    assert stopped(tmp_path / "c", *(Fail(at, hook=hook) for hook, at in hooks.items()))[0] == whole


@pytest.mark.nightly
def test_steps_that_are_made_several_at_a_time(tmp_path):
    def own():
        return [Counter()]

    wanted = fitted(tmp_path / "a", callbacks=own(), per_call=4)[0]
    with pytest.raises(Power):
        fitted(tmp_path / "b", Fail(6), callbacks=own(), per_call=4)
    assert CheckpointStore(tmp_path / "b").load().state["step"] == 4
    assert fitted(tmp_path / "b", callbacks=own(), per_call=4)[0] == wanted


@pytest.mark.nightly
def test_a_row_is_in_the_log_once(tmp_path):
    def logs(name):
        return [keras.callbacks.CSVLogger(tmp_path / name)]

    fitted(tmp_path / "a", callbacks=logs("a.csv"))
    settings = CheckpointConfig(tmp_path / "b", every_steps=8)
    with pytest.raises(Power):
        fitted(settings, Fail(21), callbacks=logs("b.csv"))
    assert (tmp_path / "b.csv").read_text().count("\n") == 4
    assert CheckpointStore(tmp_path / "b").load().state["epoch"] == 2
    fitted(settings, callbacks=logs("b.csv"))
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()


@pytest.mark.nightly
def test_a_finished_training_that_is_kept_is_not_done_again(tmp_path, whole):
    settings = CheckpointConfig(tmp_path / "c", every_steps=1, remove=False)
    assert fitted(settings)[0] == whole
    again, resume, history = fitted(settings, Fail(1))  # no step is made
    assert again[: len(again) - len(history.epoch)] == whole[: len(whole) - len(history.epoch)]
    settings.clear()
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_used(tmp_path, whole):
    with pytest.raises(Power):
        fitted(tmp_path / "c", Fail(10))
    newest = CheckpointStore(tmp_path / "c").load().name
    path = tmp_path / "c" / newest / "arrays.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    found, resume, _ = fitted(tmp_path / "c")
    assert found == whole
    assert f"{newest} was skipped" in resume.notes[0]


@pytest.mark.slow
def test_a_full_disk_is_told_and_does_not_stop_the_training(tmp_path, whole, capfd):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))

    def free():
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    class Room(Fail):
        def on_epoch_begin(self, epoch, logs=None):
            free() if epoch == 3 else None

    try:
        found, notes, _ = fitted(tmp_path / "c", Room(8, fill))
    finally:
        free()
    assert found == whole
    assert "the disk is full" in notes.notes[0]
    assert "The last good one, checkpoint-" in notes.notes[0]
    assert "the disk is full" in capfd.readouterr().out


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps >= 5:
                kernel = self.model.get_layer("logits").kernel
                kernel.assign(np.full(kernel.shape, np.nan))

    with pytest.raises(Power):
        fitted(tmp_path / "c", Fail(9), callbacks=[Spoil()])
    found = CheckpointStore(tmp_path / "c").load()
    assert found.state["step"] == 4
    assert all(np.isfinite(a).all() for name, a in found.arrays.items() if name.startswith(("weights", "optimizer")))


@pytest.mark.nightly
def test_a_signal_saves_within_a_step_and_ends_the_process(tmp_path, whole, capfd):
    """In a step, in a validation, at the end of an epoch; with settings that save nothing else."""
    settings = CheckpointConfig(tmp_path / "c", every=1000.0)
    stops = [
        (signal.SIGTERM, SystemExit, "on_train_batch_end", 8, (1, 2)),
        (signal.SIGINT, KeyboardInterrupt, "on_test_batch_end", 2, (1, 6)),
        (signal.SIGTERM, SystemExit, "on_epoch_end", 2, (3, 0)),
    ]
    for number, error, hook, at, position in stops:
        before = signal.getsignal(number)
        with pytest.raises(error) as caught:
            fitted(settings, Fail(at, lambda number=number: os.kill(os.getpid(), number), hook=hook))
        assert signal.getsignal(number) == before
        state = CheckpointStore(tmp_path / "c").load().state
        assert (state["epoch"], state["step"]) == position
        assert "the same command resumes from there" in capfd.readouterr().err + str(caught.value)
        assert number != signal.SIGTERM or caught.value.code == 143
    assert fitted(settings)[0] == whole


@pytest.mark.slow
def test_a_signal_after_fit_has_failed_acts_as_it_would_without(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        with pytest.raises(Power):
            fitted(tmp_path / "c", Fail(2))
        assert signal.getsignal(signal.SIGTERM) is not before
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["mine"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["mine", "mine"]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_other_settings_are_refused_with_all_differences(tmp_path, whole):
    with pytest.raises(Power):
        fitted(tmp_path / "c", Fail(8), identity={"data": "a1", "plan": {"size": 32}})
    with pytest.raises(PlanError) as caught:
        fitted(tmp_path / "c", rate=2e-2, identity={"data": "b2", "plan": {"size": 32}}, steps=5)
    message = str(caught.value)
    assert "settings.data was 'a1' and is 'b2'" in message
    assert "optimizer.learning_rate was 0.0099" in message
    assert "batches was 6 and is 5" in message
    assert "plan" not in message
    assert "Change them back, or choose another folder" in message
    assert fitted(tmp_path / "c", identity={"data": "a1", "plan": {"size": 32}})[0] == whole  # it was not touched


@pytest.mark.nightly
def test_another_machine_is_refused_unless_it_is_allowed(tmp_path, whole, monkeypatch):
    with pytest.raises(Power):
        fitted(tmp_path / "c", Fail(8))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.raises(
        PlanError, match="(?s)threads.OMP_NUM_THREADS was None and is '7'.*With machine='any' it resumes"
    ):
        fitted(tmp_path / "c")
    found, resume, _ = fitted(tmp_path / "c", machine="any")
    assert found == whole
    assert "OMP_NUM_THREADS" in resume.notes[0]


@pytest.mark.nightly
def test_a_missing_identity_is_refused(tmp_path):
    with pytest.raises(Power):
        fitted(tmp_path / "c", Fail(8))
    text = (tmp_path / "c" / "identity.json").read_text()
    (tmp_path / "c" / "identity.json").write_text(text.replace('"batches": 6', '"batches": 5'))
    with pytest.raises(CheckpointError, match=r"identity.json is damaged"):
        fitted(tmp_path / "c")
    (tmp_path / "c" / "identity.json").unlink()
    with pytest.raises(CheckpointError, match=r"identity.json is missing"):
        fitted(tmp_path / "c")


@pytest.mark.nightly
def test_data_that_ends_too_early_is_told(tmp_path):
    shorter = CheckpointConfig(tmp_path / "c", every_steps=1)
    with pytest.raises(Power):
        fitted(shorter, Fail(11))
    keras.utils.set_random_seed(4)
    model, head = network()
    model.compile(keras.optimizers.Adam(1e-2), **head.compile_args())
    train = from_arrays(*examples(60, 1), batch_size=10).take(3).apply(tf.data.experimental.assert_cardinality(3))
    own = [
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True, min_delta=0.01),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, min_delta=0.14),
        Counter(), Average(), Fail(),
    ]  # fmt: skip

    class Lies(Resume):
        def _identity(self):
            return super()._identity() | {"batches": STEPS}

    with pytest.raises(PlanError, match="gave 3 batches, and the training was stopped after 4 of this epoch"):
        model.fit(
            train,
            validation_data=train,
            epochs=5,
            callbacks=[Lies(shorter, own, verbose=False)],
            verbose=0,
            shuffle=False,
        )
    with pytest.raises(Power):  # and the model is as usable as before
        model.fit(train, callbacks=[Fail(2)], verbose=0, shuffle=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": -1}, "every must be a number of seconds, at least 0, received -1"),
        ({"every_steps": 0, "keep": 0}, r"(?s)2 problems.*every_steps must be an int.*keep must be"),
        ({"machine": "mine"}, "machine must be 'same' or 'any'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(PlanError, match=said):
        CheckpointConfig("c", **settings)


# ------------------------------------------------------------------------------------------------ phases

PHASES = (
    Phase("frozen", "none", 2, 1e-2),
    Phase("top", 1, 3, 1e-2, patience=1, ema_decay=0.8, layer_decay=0.7, mixup_alpha=0.2),
    Phase("all", "all", 2, 3e-3, swa_fraction=0.5, schedule="plateau", l2_sp=1e-3, interpolate=True),
)


def trained(folder, fail=None, *, phases=PHASES, seed=4, every=1, source=False, **more):
    keras.utils.set_random_seed(seed)
    model, _ = network()
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
    (pixels, labels), held_out = examples(60, 1), examples(20, 2)
    order = {"batch_size": 10, "shuffle": True, "seed": 5, "epoch": epoch}
    given = {"batch_norm": "train"}
    if source:
        arrays = training.FeatureSource((pixels, labels), held_out, batch_size=10, seed=5, cache=None)
        given = {"source": arrays}
    counter, memory = Counter(), {"seen": []}
    checkpoints = None if folder is None else CheckpointConfig(folder, every_steps=every, **more)
    history = training.train(
        model,
        from_arrays(pixels, labels, **order),
        from_arrays(*held_out, batch_size=10),
        phases,
        callbacks=[counter, fail or Fail()],
        epoch=epoch,
        verbose=False,
        after_phase=lambda phase, done, part: memory["seen"].append([phase.name, len(done.rows)]),
        checkpoints=checkpoints,
        memory=memory,
        **given,
    )
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    notes = [re.sub(r"in [0-9.]+ s", "", note) for note in history.notes]
    facts = (rows, history.best, history.audits, notes, memory, counter.steps, counter.losses)
    flags = [v.path for v in model.trainable_variables]
    return [v.numpy().tobytes() for v in model.variables], facts, flags


@pytest.fixture(scope="module")
def all_phases():
    return trained(None)


@pytest.mark.nightly
def test_saving_changes_nothing_and_what_is_done_is_not_done_again(tmp_path, all_phases):
    assert trained(tmp_path / "c", remove=False) == all_phases
    again = trained(tmp_path / "c", Fail(1), remove=False)  # no step is made
    assert again[0] == all_phases[0]
    assert again[1][:5] == all_phases[1][:5]
    assert again[2] == all_phases[2]


@pytest.mark.nightly
def test_phases_go_on_from_any_step(tmp_path, all_phases):
    """Fails once in the first phase, three times in the second, once in the third."""
    fails = Fail(3), Fail(14), Fail(1), Fail(9), Fail(11)
    assert stopped(tmp_path / "c", *fails, run=trained) == all_phases
    assert not (tmp_path / "c").exists()


@pytest.mark.nightly
def test_phases_go_on_from_their_borders(tmp_path, all_phases):
    hooks = {"on_test_batch_end": 9, "on_train_end": 1, "on_train_begin": 2, "on_epoch_end": 1}
    assert stopped(tmp_path / "c", *(Fail(n, hook=hook) for hook, n in hooks.items()), run=trained) == all_phases


@pytest.mark.nightly
def test_a_signal_while_the_average_is_in_the_model(tmp_path, all_phases):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    fails = [
        Fail(at, stop, hook=hook)
        for at, hook in ((8, "on_test_batch_end"), (2, "on_epoch_end"), (3, "on_test_batch_end"))
    ]
    assert stopped(tmp_path / "c", *fails, run=trained, error=SystemExit, every=1000) == all_phases


@pytest.mark.nightly
def test_a_head_is_solved_and_features_are_computed_once_more(tmp_path):
    phases = [
        Phase("solved", "none", 0, 0.0, head="linear_probe"),
        Phase("top", 1, 3, 1e-2),
        Phase("lora", 1, 2, 1e-2, lora_rank=2),
    ]
    whole = trained(None, phases=phases, source=True)
    assert stopped(tmp_path / "c", Fail(2), Fail(18), Fail(8), run=trained, phases=phases, source=True) == whole


@pytest.mark.nightly
def test_another_plan_is_refused_with_all_differences(tmp_path):
    with pytest.raises(Power):
        trained(tmp_path / "c", Fail(14))
    other = [
        PHASES[0],
        Phase("top", 2, 3, 2e-2, patience=1, ema_decay=0.8, layer_decay=0.7, mixup_alpha=0.2),
        PHASES[2],
    ]
    with pytest.raises(PlanError) as caught:
        trained(tmp_path / "c", phases=other, identity={"data": "other"})
    message = str(caught.value)
    assert "phases.top.unfreeze was 1 and is 2" in message
    assert "phases.top.learning_rate was 0.01 and is 0.02" in message
    assert "settings.data was missing and is now 'other'" in message
    with pytest.raises(PlanError, match="phases.all was .* and is now missing"):
        trained(tmp_path / "c", phases=PHASES[:2])


# ------------------------------------------------------------------------------------------------ processes


def process(folder, kill=""):
    environment = os.environ | {"TFFT_KILL": kill, "TFFT_EVERY": "2"}
    command = [sys.executable, "-W", "ignore", PROCESS, "train", folder]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(text):
    return [line for line in text.splitlines() if line.startswith("RESULT")]


@pytest.mark.nightly
@pytest.mark.process
def test_processes_that_are_killed_in_each_phase_leave_the_same_weights(tmp_path):
    """Killed while a file is synced, in a step, in a validation, and by SIGTERM."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = process(tmp_path / "a" / "c")
    for kill, code in (("sync:50", -9), ("batch:40", -9), ("test:9:SIGTERM", 143)):
        child = process(tmp_path / "b" / "c", kill)
        said = child.communicate()[1]
        assert child.returncode == code, said
    last = process(tmp_path / "b" / "c")
    out, error = last.communicate()
    assert last.returncode == 0, error
    assert "the same command resumes from there" in said
    assert results(out) == results(undisturbed.communicate()[0])
    assert len(results(out)) > 5
