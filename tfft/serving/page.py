"""A page for trying a model: :func:`model_page`."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfft import registry
from tfft.errors import TfftError
from tfft.explanation import explain, is_explained
from tfft.exporting import predict_each
from tfft.exporting.loader import Served
from tfft.reporting.explanations import overlay
from tfft.reporting.page import coloured_parts

if TYPE_CHECKING:
    import gradio

_CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows for one input.

    Attributes:
        label: Most probable classes with their probabilities; None for other tasks.
        text: The prediction in words; empty if the classes say it.
        image: File with the drawn detections or mask; None if there is none.
        audio: File with a recording that the model made; None if there is none.
    """

    label: dict[str, float] | None = None
    text: str = ""
    image: str | None = None
    audio: str | None = None


def predicted(served: Served, values: tuple[Any, ...], folder: Path) -> Shown:
    """Predict for the values of the page's fields.

    Args:
        served: Model.
        values: Path of a file, or texts.
        folder: Folder for files to show.

    Raises:
        DataError: If they cannot be used.
    """
    task = registry.task_or_plain(served.task)
    [found] = predict_each(served, [values[0] if len(values) == 1 else values], top=_CLASSES)
    if found.error is not None:
        raise TfftError(f"{found.error[:1].upper()}{found.error[1:]}")
    if found.label is not None:
        return Shown(label=dict(found.top))
    text = task.format_prediction("", found.answer).removeprefix(":").strip()
    drawn = task.draw(found.file, found.outputs) if os.path.isfile(found.file) else None
    if drawn is not None:
        return Shown(text=text, image=_written(folder, ".png", drawn))
    made = task.file_of(found.outputs)
    return Shown(text=text, audio=None if made is None else _written(folder, *made))


def explained(served: Served, values: tuple[Any, ...], folder: Path) -> tuple[str | None, str]:
    """Explain the prediction for the values of the page's fields.

    Args:
        served: Model.
        values: Path of a file, or texts.
        folder: Folder for files to show.

    Returns:
        A file with a heat map or None, and HTML with coloured words or an empty text.

    Raises:
        TfftError: If the prediction cannot be explained.
    """
    [found] = explain(served, [values[0] if len(values) == 1 else values])
    if found.picture is not None:
        return _written(folder, ".jpg", overlay(found)), ""
    return None, coloured_parts(found.scaled())


def _written(folder: Path, suffix: str, content: bytes) -> str:
    with tempfile.NamedTemporaryFile(dir=folder, suffix=suffix, delete=False) as file:
        file.write(content)
    return file.name


def model_page(served: Served, name: str) -> gradio.Blocks:
    """Return a page with a field for each input of a model.

    Args:
        served: Model.
        name: Name of the model, the title.

    Raises:
        ExportError: If the modality of the model is unknown.
    """
    import gradio

    taken = served.asked()
    fields = registry.modality(taken.modality).page_inputs(taken.spec)
    made = tempfile.TemporaryDirectory(prefix="tfft-serve-")  # lives as long as the functions below
    widgets: dict[str, Callable[[str], Any]] = {
        "image": lambda label: gradio.Image(type="filepath", label=label, sources=["upload", "webcam", "clipboard"]),
        "audio": lambda label: gradio.Audio(type="filepath", label=label, sources=["upload", "microphone"]),
        "text": lambda label: gradio.Textbox(label=label, lines=3),
        "file": lambda label: gradio.File(type="filepath", label=label),
    }

    def answered(function: Callable[..., Sequence[Any]], values: tuple[Any, ...]) -> list[Any]:
        if not all(values):
            raise gradio.Error(f"Expected {' and '.join(field.label.lower() for field in fields)}. Received: nothing.")
        try:
            found = function(served, values, Path(made.name))
        except TfftError as error:
            raise gradio.Error(str(error)) from error
        return [gradio.update(value=one, visible=bool(one)) for one in found]

    def ask(*values: Any) -> list[Any]:
        return answered(lambda *given: dataclasses.astuple(predicted(*given)), values)

    def why(*values: Any) -> list[Any]:
        return answered(explained, values)

    with gradio.Blocks(title=name, analytics_enabled=False) as page:
        gradio.Markdown(f"# {name}")
        with gradio.Row():
            with gradio.Column():
                inputs = [widgets[field.widget](field.label) for field in fields]
                button = gradio.Button("Predict", variant="primary")
                explaining = gradio.Button("Explain", visible=is_explained(served.task))
            with gradio.Column():
                outputs = [
                    gradio.Label(label="Prediction", visible=False),
                    gradio.Textbox(label="Prediction", visible=False),
                    gradio.Image(label="Prediction", visible=False),
                    gradio.Audio(label="Prediction", visible=False),
                ]
                reasons = [gradio.Image(label="Explanation", visible=False), gradio.HTML(visible=False)]
        button.click(ask, inputs, outputs, api_name="predict")
        explaining.click(why, inputs, reasons, api_name="explain")
    return page
