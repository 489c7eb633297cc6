"""Anti-aliased moving shapes on a grey background."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "red": (225, 45, 45),
    "yellow": (230, 215, 40),
    "green": (40, 185, 60),
    "cyan": (45, 205, 215),
    "blue": (50, 70, 230),
    "magenta": (215, 50, 205),
}
SHAPES = ("circle", "square", "triangle")
REACH = {"circle": (1, 1, 1, 1), "square": (0.887, 0.887, 0.887, 0.887), "triangle": (1.347, 1.556, 1.347, 0.778)}
"""How far a shape reaches from its centre to the left, up, right and down, in radii of the circle of its area."""
GAP = 0.02
"""Between a shape and the border of the frame, at least."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Attributes:
    """What a caption says of one object."""

    colour: str
    shape: str
    direction: str

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} moves {self.direction}"


ALL_ATTRIBUTES = tuple(Attributes(*names) for names in product(COLOURS, SHAPES, DIRECTIONS))


@dataclass(frozen=True)
class MovingShape:
    """One object of a scene; lengths are fractions of the frame's side."""

    attributes: Attributes
    radius: float  # of the circle with the same area
    start: tuple[float, float]  # centre in the first frame, (x, y)
    travel: float  # from the first frame to the last

    def centre(self, progress: float) -> tuple[float, float]:
        """(x, y) at `progress` in [0, 1] through the clip."""
        dx, dy = DIRECTIONS[self.attributes.direction]
        return self.start[0] + dx * self.travel * progress, self.start[1] + dy * self.travel * progress


@dataclass(frozen=True)
class Scene:
    """Objects on a grey background; later objects are painted over earlier ones."""

    objects: tuple[MovingShape, ...]
    background: int  # grey level, 0 to 255

    @property
    def caption(self) -> str:
        return " and ".join(shape.attributes.caption for shape in self.objects)


def signed_distance(shape: str, x: NDArray[np.float64], y: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Distance to the outline, negative inside, of a shape with the area of a circle of `radius`, centred at 0.

    y points down; the triangle is equilateral and points up.
    """
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * np.sqrt(np.pi) / 2
    inradius = radius * np.sqrt(np.pi / (3 * np.sqrt(3)))
    slanted = np.abs(x) * np.sqrt(3) / 2 - y / 2
    return np.maximum(slanted, y) - inradius


def coverage(shape: str, size: int, centre: tuple[float, float], radius: float) -> NDArray[np.float64]:
    """[size, size] in [0, 1]: how much of each pixel the shape covers; `centre` and `radius` in pixels."""
    y, x = np.mgrid[:size, :size] + 0.5
    return np.clip(0.5 - signed_distance(shape, x - centre[0], y - centre[1], radius), 0, 1)


def render(scene: Scene, num_frames: int, size: int) -> NDArray[np.uint8]:
    """Frames [num_frames, size, size, 3] of the scene."""
    frames = np.full((num_frames, size, size, 3), float(scene.background))
    for index, frame in enumerate(frames):
        for shape in scene.objects:
            x, y = shape.centre(index / max(1, num_frames - 1))
            alpha = coverage(shape.attributes.shape, size, (x * size, y * size), shape.radius * size)[..., None]
            frame[:] = (1 - alpha) * frame + alpha * np.array(COLOURS[shape.attributes.colour])
    return np.rint(frames).astype(np.uint8)


def random_scene(objects: tuple[Attributes, ...], rng: np.random.Generator) -> Scene:
    """Objects that do what `objects` asks for, of varied size, place and speed, inside the frame all the time."""
    shapes = tuple(_random_shape(attributes, rng) for attributes in objects)
    return Scene(shapes, background=int(rng.integers(20, 236)))


def _random_shape(attributes: Attributes, rng: np.random.Generator) -> MovingShape:
    radius = rng.uniform(0.18, 0.235)
    travel = rng.uniform(0.2, 0.3)
    left, up, right, down = (radius * reach for reach in REACH[attributes.shape])
    start = []
    for towards, before, after in zip(DIRECTIONS[attributes.direction], (left, up), (right, down), strict=True):
        low = GAP + before + (travel if towards < 0 else 0)
        high = 1 - GAP - after - (travel if towards > 0 else 0)
        start.append(rng.uniform(low, high))
    return MovingShape(attributes, radius, (start[0], start[1]), travel)
