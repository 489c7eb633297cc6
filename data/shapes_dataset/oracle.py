"""Reads colour, shape and direction of a single moving object from pixels alone."""

import colorsys

import numpy as np
from numpy.typing import NDArray

from data.shapes_dataset.render import COLOURS, DIRECTIONS, SHAPES, Attributes, coverage

_HUES = {name: colorsys.rgb_to_hsv(*(value / 255 for value in rgb))[0] for name, rgb in COLOURS.items()}


def read(frames: NDArray[np.uint8]) -> Attributes:
    """What the clip [F, H, W, 3] shows; an answer is always given, also on noise.

    The background is grey, so the object is where the channels differ.
    """
    pixels = frames.astype(np.float64)
    chroma = pixels.max(-1) - pixels.min(-1)
    weights = _object_weights(chroma)
    return Attributes(_colour(pixels, weights), _shape(weights), _direction(weights))


def _object_weights(chroma: NDArray[np.float64]) -> NDArray[np.float64]:
    """[F, H, W] in [0, 1]: how much of each pixel is object, from its saturation against the clip's strongest.

    What compression leaves below a tenth is cut, and as much at the top, so that the area stays right.
    """
    share = chroma / max(np.percentile(chroma, 97), 1.0)
    return np.clip((share - 0.1) / 0.8, 0, 1)


def _colour(pixels: NDArray[np.float64], weights: NDArray[np.float64]) -> str:
    mean = (pixels * weights[..., None]).sum((0, 1, 2)) / max(weights.sum(), 1e-9)
    hue = colorsys.rgb_to_hsv(*(mean / 255))[0]
    return min(_HUES, key=lambda name: abs((hue - _HUES[name] + 0.5) % 1 - 0.5))


def _centroid(weights_HW: NDArray[np.float64]) -> tuple[float, float]:
    y, x = np.mgrid[: weights_HW.shape[0], : weights_HW.shape[1]] + 0.5
    total = max(weights_HW.sum(), 1e-9)
    return float((weights_HW * x).sum() / total), float((weights_HW * y).sum() / total)


def _shape(weights: NDArray[np.float64]) -> str:
    """The shape whose silhouette, of the same area and centroid, overlaps the object best over all frames."""
    overlap = dict.fromkeys(SHAPES, 0.0)
    for frame in weights:
        radius, centre = np.sqrt(frame.sum() / np.pi), _centroid(frame)
        for name in SHAPES:
            silhouette = coverage(name, frame.shape[0], centre, radius)
            union = np.maximum(frame, silhouette).sum()
            overlap[name] += np.minimum(frame, silhouette).sum() / max(union, 1e-9)
    return max(overlap, key=lambda name: overlap[name])


def _direction(weights: NDArray[np.float64]) -> str:
    """The direction in which the centroid's path, fitted by least squares, goes farthest."""
    centres = np.array([_centroid(frame) for frame in weights])
    time = np.arange(len(centres)) - (len(centres) - 1) / 2
    slope_x, slope_y = time @ centres
    return max(DIRECTIONS, key=lambda name: DIRECTIONS[name][0] * slope_x + DIRECTIONS[name][1] * slope_y)
