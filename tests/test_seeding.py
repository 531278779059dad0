"""The same run with several seeds, the picture of a history, and the bar."""

import io

import numpy as np
import pytest
from rich.console import Console
from test_recipes import FAST, backbone

from tfft.errors import DataError, PlanError
from tfft.recipes import finetune_seeds
from tfft.training import History, plot_history
from tfft.training.progress import Progress


def squares(n=48):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, n)
    images = np.where(labels == 1, 200, 40)[:, None, None, None] + random.integers(-20, 20, (n, 16, 16, 3))
    return images.astype("uint8"), labels


@pytest.mark.slow
def test_seeds_give_a_mean_a_spread_and_a_folder_each(tmp_path):
    settings = {**FAST, "unfreeze": "none", "head_epochs": "auto", "learning_rate": "auto"}
    runs = finetune_seeds(backbone(), squares(), seeds=2, out=tmp_path / "seeds", **settings)
    values = [row.final_scores.value for row in runs.rows]
    assert runs.mean == pytest.approx(np.mean(values))
    assert runs.spread == pytest.approx(np.std(values, ddof=1))
    assert f"{runs.mean:.4f} ± {runs.spread:.4f}" in str(runs)
    assert (tmp_path / "seeds" / "seed-1" / "metrics.json").is_file()
    assert (tmp_path / "seeds" / "seeds.csv").read_text().count("\n") == 3


def test_one_seed_has_no_spread():
    for seeds in (1, [3], [4, 4]):
        with pytest.raises(PlanError, match="at least two different seeds"):
            finetune_seeds("b", "d", seeds=seeds)
    with pytest.raises(PlanError, match="seed apply to a single run"):
        finetune_seeds("b", "d", seeds=2, seed=1)


ROWS = (
    {"phase": "frozen", "epoch": 1, "loss": 0.7, "accuracy": 0.6, "val_loss": 0.6, "val_accuracy": 0.7,
     "learning_rate": 0.01, "seconds": 1.0},
    {"phase": "fine-tune", "epoch": 1, "loss": 0.4, "accuracy": 0.9, "val_loss": 0.5, "val_accuracy": 0.8,
     "learning_rate": 0.001, "seconds": 1.0},
)  # fmt: skip


def test_a_history_is_drawn_from_memory_and_from_its_file(tmp_path):
    history = History(ROWS, {"frozen": 1, "fine-tune": 1})
    figure = plot_history(history, tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 5_000
    assert [axis.get_legend_handles_labels()[1] for axis in figure.axes] == [
        ["loss", "val_loss"], ["accuracy", "val_accuracy"], ["learning_rate"],
    ]  # fmt: skip
    assert list(figure.axes[0].lines[1].get_ydata()) == [0.6, 0.5]
    history.to_csv(tmp_path / "history.csv")
    assert len(plot_history(tmp_path / "history.csv").axes) == 3
    with pytest.raises(DataError, match="history with epochs"):
        plot_history(History())


@pytest.mark.slow
def test_a_bar_moves_in_a_terminal_and_a_notebook_and_not_in_a_file():
    import keras

    shown = {}
    for place in ("terminal", "notebook", "file"):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=place == "terminal", force_jupyter=place == "notebook", width=100)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        bar = Progress("fine-tune", 8, console)
        model.fit(np.zeros((16, 2)), np.zeros(16), batch_size=4, epochs=2, verbose=0, callbacks=[bar])
        bar.close()
        shown[place] = screen.getvalue()
    assert "fine-tune" in shown["terminal"]
    assert "rate 0.01" in shown["terminal"]
    assert shown["file"] == ""
    first, *_, last = shown["notebook"].split("\r")[1:]  # one line, which is written over and wiped at the end
    assert first.startswith("fine-tune 1/8  loss 0.0000  rate 0.01")
    assert last == ""
    assert "\n" not in shown["notebook"]
