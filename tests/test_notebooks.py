"""The notebooks run from top to bottom, as a reader would run them, without a network."""

from __future__ import annotations

import os
import pathlib
import warnings

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.process]

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module", autouse=True)
def _kernel_of_this_environment(tmp_path_factory):
    """A kernel that runs this very Python, whatever kernels are installed for the user."""
    import json
    import sys

    base = tmp_path_factory.mktemp("jupyter")
    folder = base / "kernels" / "tfft-tests"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "tests", "language": "python"}))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(base)
    yield
    if before is None:
        del os.environ["JUPYTER_PATH"]
    else:
        os.environ["JUPYTER_PATH"] = before


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_without_errors(path):
    import nbformat

    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs, "python docs/run_notebooks.py stores them"
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    ran = [cell.execution_count for cell in cells if cell.execution_count is not None]
    assert ran == list(range(1, len(cells) + 1))


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_top_to_bottom(path, tmp_path):
    import nbformat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the Jupyter packages; the notebook's own go to its cells
        from nbclient import NotebookClient

        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook, timeout=500, kernel_name="tfft-tests", resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "fine-tuned" in printed or "trained: " in printed
