"""Map of the held-out examples by their features: :func:`embed`, :func:`draw_map`.

Implementation notes: the map is plain SVG inside the page, and images appear by CSS, since a report has no scripts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfft.errors import installed_version
from tfft.inspection.html_report import escaped, thumbnail_address
from tfft.registry import ExampleResult

MOST_CLASSES = 10  # with more, colours cannot be told apart
MOST_POINTS = 1000
LEAST_POINTS = 10
_MOST_PICTURES = 300  # thumbnails of about 3 KB each
_COLOURS = (  # colours of Okabe and Ito (2008), which people with impaired colour vision can tell apart, and four more
    "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#999999", "#8c564b", "#7f3fbf",
)  # fmt: skip
_WIDTH, _HEIGHT, _MARGIN, _PICTURE = 720, 480, 12, 96
_DIMENSIONS = 50  # principal components in front of t-SNE


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """Features of examples in two dimensions.

    Attributes:
        rows: Positions of the examples among those given, [n].
        points: Places on the map, 0 to 1, [n, 2].
        method: Name of the method, with its source.
        neighbours: Share of all examples whose nearest neighbour has the same label, 0 to 1.
    """

    rows: np.ndarray
    points: np.ndarray
    method: str
    neighbours: float


def embed(features: np.ndarray, labels: Sequence[str]) -> Embedding:
    """Place examples on a plane so that those with similar features are close.

    With scikit-learn installed, the method is t-SNE (van der Maaten and Hinton, "Visualizing data using t-SNE", 2008)
    on the first 50 principal components, started from the first two; without it, the first two principal components.
    Distances on the map are not those of the features, so the share of nearest neighbours with the same label is
    computed from the features themselves (cosine similarity), each example without itself.

    Args:
        features: Features in front of the head, [N, width].
        labels: True label of each example.

    Returns:
        The map.

    Example:
        >>> embed(features, ["ants", "bees", "ants"]).points.shape
        (3, 2)
    """
    rows = np.arange(len(features))
    if len(rows) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), MOST_POINTS, replace=False))
    chosen = np.asarray(features, np.float64)[rows]
    centred = chosen - chosen.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    components = (left * sizes)[:, :_DIMENSIONS]
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    points, method = components[:, :2], "the first two principal components"
    if installed_version("scikit-learn") and np.ptp(components):
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(rows) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(components.astype(np.float32))
        method = "t-SNE (van der Maaten and Hinton, 2008)"
    low, spread = points.min(axis=0), np.ptp(points, axis=0)
    places = (points - low) / np.where(spread > 0, spread, 1)
    return Embedding(rows, places, method, _neighbours(chosen, np.asarray(labels, object)[rows]))


def _neighbours(features: np.ndarray, labels: np.ndarray) -> float:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths > 0, lengths, 1)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    return float((labels[alike.argmax(axis=1)] == labels).mean())


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each label, in the order of their names."""
    return dict(zip(sorted(set(labels)), _COLOURS, strict=False))


def draw_map(
    embedding: Embedding, names: Sequence[str], results: Sequence[ExampleResult], colours: Mapping[str, str]
) -> str:
    """Return a map as SVG: a dot for each example in the colour of its true label, a ring around wrong predictions.

    The name of an example is its tooltip; its image, if it has one, appears under the pointer.

    Args:
        embedding: Places of the examples.
        names: Names of all examples: paths, or texts.
        results: Results of all examples.
        colours: Colours by label.
    """
    dots = []
    for number, (row, (x, y)) in enumerate(zip(embedding.rows, embedding.points, strict=True)):
        result, name = results[row], names[row]
        across = _MARGIN + x * (_WIDTH - 2 * _MARGIN)
        down = _MARGIN + (1 - y) * (_HEIGHT - 2 * _MARGIN)
        wrong = ' stroke="#c0392b" stroke-width="2.5"' if result.correct is False else ' stroke="#fff8"'
        said = f"{name[:120]}: {result.label}" + (f", predicted {result.prediction}" if result.correct is False else "")
        picture = thumbnail_address(name) if number < _MOST_PICTURES else None
        shown = ""
        if picture is not None:
            left = min(max(across - _PICTURE / 2, 0), _WIDTH - _PICTURE)
            top = down + 8 if down < _HEIGHT / 2 else down - 8 - _PICTURE
            shown = f'<image href="{picture}" x="{left:.0f}" y="{top:.0f}" width="{_PICTURE}" height="{_PICTURE}"/>'
        dots.append(
            f'<g><circle cx="{across:.1f}" cy="{down:.1f}" r="5" fill="{colours[result.label]}"{wrong}>'
            f"<title>{escaped(said)}</title></circle>{shown}</g>"
        )
    return f'<svg class="map" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(dots)}</svg>'
