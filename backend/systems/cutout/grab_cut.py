"""The object before a busy background, without a network: iterated colour models and a minimal cut (GrabCut).

After Rother, Kolmogorov and Blake, "GrabCut" (SIGGRAPH 2004): a Gaussian mixture of colours for either side, fitted in
turn with the cheapest boundary between them, where boundaries are cheap along edges of the picture. Written from the
paper; the cut is SciPy's maximum flow.

`stable_object` knows its limits: it takes the border for background, begins once with a large and once with a smaller
rectangle, and answers only when both lead to the same compact thing.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from scipy.spatial import ConvexHull, QhullError

COMPONENTS = 5  # Gaussians a side, as in the paper
ROUNDS = 4  # the boundary hardly moves after three
SMOOTHNESS = 50.0  # the paper's gamma
SEED = 7  # of the first clustering: the same picture always gives the same cut
UNIT = 100  # steps of cost a whole number of flow stands for
CERTAIN = 10_000 * UNIT
LEAST_VARIANCE = 1e-4  # (2.5 of 255)^2: a flat colour must not have an infinitely narrow Gaussian
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))

INSETS = (0.06, 0.18)  # of the two rectangles, as parts of the sides
SAME = 0.9  # overlap (IoU) of the two answers
LEADING = 0.85  # part of the answer that is one piece: markers and crumbs beside the object are left out
COMPACT = 0.75  # part of its convex outline that it fills; a bird at 0.66 had lost its head, statues had 0.94 and more


def stable_object(rgb: np.ndarray, border: np.ndarray) -> np.ndarray | None:
    """The one object [H,W] bool in `rgb` [H,W,3] in [0,1], or None when in doubt. `border` [H,W] bool is background."""
    height, width = border.shape
    found = []
    for inset in INSETS:
        down, right = max(1, int(height * inset)), max(1, int(width * inset))
        start = np.zeros((height, width), bool)
        start[down : height - down, right : width - right] = True
        found.append(grab_cut(rgb, border, start))
    labels, count = ndimage.label(found[0])
    if not count:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    largest = ndimage.binary_fill_holes(labels == int(sizes.argmax()) + 1)
    same = (found[0] & found[1]).sum() / (found[0] | found[1]).sum()
    if same < SAME or sizes.max() < LEADING * sizes.sum() or _compactness(largest) < COMPACT:
        return None
    return largest


def _compactness(mask: np.ndarray) -> float:
    """Part of its convex hull that `mask` fills."""
    try:
        return float(mask.sum() / max(ConvexHull(np.argwhere(mask)).volume, 1.0))
    except QhullError:  # fewer than three points, or all on a line
        return 0.0


def grab_cut(rgb: np.ndarray, background: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The object [H,W] bool in `rgb` [H,W,3] in [0,1].

    `background` [H,W] bool is certain; `start` [H,W] bool is where the object is thought to be at first.
    """
    flat, inside = rgb.reshape(-1, 3), (start & ~background).ravel()
    links, weights = _links(rgb)
    for _ in range(ROUNDS):
        if inside.sum() < COMPONENTS or (~inside).sum() < COMPONENTS:
            break
        costs = [_cost(flat, flat[side]) for side in (inside, ~inside)]
        lowest = np.minimum(*costs)
        to_object, to_background = costs[1] - lowest, costs[0] - lowest
        to_object[background.ravel()], to_background[background.ravel()] = 0, CERTAIN / UNIT
        inside = _cut(links, weights, to_object, to_background)
    return inside.reshape(start.shape)


def _cost(colors: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """How badly each of `colors` [N,3] fits the mixture of `samples` [M,3]: its negative log-likelihood [N]."""
    rng = np.random.default_rng(SEED)
    spread = samples + rng.normal(0, LEAST_VARIANCE**0.5, samples.shape)  # equal colours have no clusters
    _, labels = kmeans2(spread, COMPONENTS, minit="++", rng=rng)
    total = np.full(len(colors), 1e-12)
    for index in range(COMPONENTS):
        members = samples[labels == index]
        if len(members) < 4:
            continue
        covariance = np.cov(members.T) + LEAST_VARIANCE * np.eye(3)
        offset = colors - members.mean(0)
        distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
        total += len(members) / len(samples) * np.exp(-0.5 * distance) / np.sqrt(np.linalg.det(covariance))
    return -np.log(total)


def _links(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbouring pixels [L,2] and what a boundary between them costs [L]."""
    height, width = rgb.shape[:2]
    index = np.arange(height * width).reshape(height, width)
    pairs, squares, lengths = [], [], []
    for down, right in NEIGHBOURS:
        here = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(down, height), slice(max(0, right), width - max(0, -right)))
        pairs.append(np.stack([index[here].ravel(), index[there].ravel()], -1))
        squares.append(((rgb[here] - rgb[there]) ** 2).sum(-1).ravel())
        lengths.append(np.full(len(pairs[-1]), np.hypot(down, right)))
    square = np.concatenate(squares)
    beta = 0.5 / max(float(square.mean()), 1e-9)
    return np.concatenate(pairs), SMOOTHNESS * np.exp(-beta * square) / np.concatenate(lengths)


def _cut(links: np.ndarray, weights: np.ndarray, to_object: np.ndarray, to_background: np.ndarray) -> np.ndarray:
    """The object's side [N] bool of the minimal cut."""
    count = len(to_object)
    source, sink, pixels = count, count + 1, np.arange(count)
    rows = np.concatenate([links[:, 0], links[:, 1], np.full(count, source), pixels])
    columns = np.concatenate([links[:, 1], links[:, 0], pixels, np.full(count, sink)])
    capacity = np.concatenate([weights, weights, to_object, to_background])
    whole = np.rint(np.minimum(capacity * UNIT, CERTAIN)).astype(np.int32)
    graph = sparse.csr_matrix((whole, (rows, columns)), shape=(count + 2, count + 2))
    left = graph - maximum_flow(graph, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    inside = np.zeros(count + 2, bool)
    inside[reached] = True
    return inside[:count]
