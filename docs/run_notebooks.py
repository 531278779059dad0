"""Run the notebooks and store their outputs: ``python docs/run_notebooks.py [NAME ...]``.

Messages on standard error and the temporary folder of the run are left out, so that the files change only where results
do.
"""

from __future__ import annotations

import pathlib
import re
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
_PLACES = re.compile(rf"{re.escape(tempfile.gettempdir())}/[\w.-]+")


def clean(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs without standard error, printed lines joined, with ``/tmp/tfft`` in place of temporary folders."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        for place, kind in (
            (output, "text"),
            *((output.get("data", {}), kind) for kind in ("text/plain", "text/html")),
        ):
            if kind in place:
                place[kind] = _PLACES.sub("/tmp/tfft", place[kind])
        if output.output_type == "stream" and found and found[-1].output_type == "stream":
            found[-1].text += output.text
        elif output.get("text") != "":
            found.append(output)
    return found


def run(path: pathlib.Path) -> None:
    """Run a notebook from top to bottom, and store it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    with tempfile.TemporaryDirectory() as place:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": place}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = clean(cell.outputs)
    notebook.metadata = nbformat.from_dict(metadata)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for each in sorted(FOLDER.glob("*.ipynb")):
        if not sys.argv[1:] or each.stem in sys.argv[1:]:
            run(each)
            print(each.name, flush=True)
