"""Decides how far solids are from points and what a camera sees of them: signed distances, followed along rays.

Axes: x forward, y up, z to the right of who looks along x. Points are float arrays [N, 3].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[float, float, float]
RGB = tuple[float, float, float]
"""Red, green and blue, 0..1."""

_NUM_STEPS = 56
_NUM_SHADOW_STEPS = 24
_STEP = 0.8
"""Part of the distance that a ray goes at once: distances to tapered and squashed solids are estimates."""
_NEAR = 2e-3
_FAR = 30.0


class Solid(Protocol):
    @property
    def color(self) -> RGB: ...

    def distance(self, points: Floats) -> Floats:
        """[N]: about how far each point is from the surface, negative inside."""

    def extent(self) -> tuple[list[Point], float]:
        """Points of the solid, and how far around them it reaches at most."""


@dataclass(frozen=True)
class Limb:
    """A rod with round ends from `start` to `end`, each with its radius; a ball where both are one point.

    squash: how many times thinner the solid is along each axis than the radii say.
    """

    start: Point
    end: Point
    start_radius: float
    end_radius: float
    color: RGB
    squash: Point = (1.0, 1.0, 1.0)

    def distance(self, points: Floats) -> Floats:
        squash = np.array(self.squash)
        start, axis = np.array(self.start) * squash, (np.array(self.end) - np.array(self.start)) * squash
        from_start = points * squash - start
        along = np.clip(from_start @ axis / max(float(axis @ axis), 1e-12), 0.0, 1.0)
        gap = np.linalg.norm(from_start - along[:, None] * axis, axis=1)
        radius = self.start_radius + (self.end_radius - self.start_radius) * along
        return np.asarray((gap - radius) / squash.max())

    def extent(self) -> tuple[list[Point], float]:
        return [self.start, self.end], max(self.start_radius, self.end_radius) / min(self.squash)


@dataclass(frozen=True)
class Block:
    """A box with rounded edges. half: half its length, height and width.

    taper: how much shorter and narrower the top is than the bottom, as a part of each; negative for a wider top.
    bow: how much narrower the front end is than the middle.
    """

    center: Point
    half: Point
    color: RGB
    rounding: float = 0.03
    taper: tuple[float, float] = (0.0, 0.0)
    bow: float = 0.0

    def distance(self, points: Floats) -> Floats:
        x, y, z = (points - np.array(self.center)).T
        half_x, half_y, half_z = self.half
        height = np.clip(y / half_y, -1.0, 1.0) / 2 + 0.5
        ahead = np.clip(x / half_x, 0.0, 1.0)
        length = half_x * (1 - self.taper[0] * height)
        width = half_z * (1 - self.taper[1] * height) * (1 - self.bow * ahead**2)
        outside = np.stack([np.abs(x) - length, np.abs(y) - half_y, np.abs(z) - width], axis=1) + self.rounding
        gap = np.linalg.norm(np.maximum(outside, 0.0), axis=1) + np.minimum(outside.max(axis=1), 0.0)
        return np.asarray(gap - self.rounding)

    def extent(self) -> tuple[list[Point], float]:
        x, y, z = self.center
        a, b, c = self.half
        return [(x + i * a, y + j * b, z + k * c) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], 0.0


@dataclass(frozen=True)
class Wheel:
    """A disc that rolls along x."""

    center: Point
    radius: float
    half_width: float
    color: RGB

    def distance(self, points: Floats) -> Floats:
        x, y, z = (points - np.array(self.center)).T
        outside = np.stack([np.hypot(x, y) - self.radius, np.abs(z) - self.half_width], axis=1)
        return np.asarray(np.linalg.norm(np.maximum(outside, 0.0), axis=1) + np.minimum(outside.max(axis=1), 0.0))

    def extent(self) -> tuple[list[Point], float]:
        return [self.center], self.radius


class Camera(NamedTuple):
    """Looks from `eye` along `ahead`; right and up span the picture, `center` and `half_side` say which part of it."""

    eye: Floats
    ahead: Floats
    right: Floats
    up: Floats
    center: tuple[float, float]
    half_side: float

    def rays(self, side: int) -> Floats:
        """Unit directions of the pixels, row by row from the top left, [side * side, 3]."""
        places = (np.arange(side) + 0.5) / side * 2 - 1
        across = (self.center[0] + self.half_side * places)[None, :, None] * self.right
        upward = (self.center[1] - self.half_side * places)[:, None, None] * self.up
        rays = (self.ahead + across + upward).reshape(-1, 3)
        return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def camera_at(solids: Sequence[Solid], turn: float, tilt: float, roll: float, fill: float) -> Camera:
    """A camera that sees all solids, as large as `fill` of the picture.

    turn: 0 looks at their right side with the front to the right, in radians; tilt: how far from above; roll: of the
    camera itself.
    """
    points, reaches = _extents(solids)
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    size = float(np.linalg.norm(points - middle, axis=1).max())
    ahead = -np.array([np.sin(turn) * np.cos(tilt), np.sin(tilt), np.cos(turn) * np.cos(tilt)])
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    eye = middle - ahead * 4.0 * size
    depth = (points - eye) @ ahead
    seen = np.stack([(points - eye) @ right / depth, (points - eye) @ up / depth])
    low, high = (seen - reaches / depth).min(axis=1), (seen + reaches / depth).max(axis=1)
    center_x, center_y = ((low + high) / 2).tolist()
    return Camera(eye, ahead, right, up, (center_x, center_y), float((high - low).max()) / 2 / fill)


def _extents(solids: Sequence[Solid]) -> tuple[Floats, Floats]:
    points: list[Point] = []
    reaches: list[float] = []
    for solid in solids:
        corners, reach = solid.extent()
        points += corners
        reaches += [reach] * len(corners)
    return np.array(points), np.array(reaches)


def distances(solids: Sequence[Solid], points: Floats) -> Floats:
    """[number of solids, N]."""
    return np.stack([solid.distance(points) for solid in solids])


def march(solids: Sequence[Solid], eye: Floats, rays: Floats) -> Floats:
    """How far along each ray the first solid lies, infinite where none does, [N]."""
    depth = np.zeros(len(rays))
    gap = np.full(len(rays), np.inf)
    active = np.arange(len(rays))
    for _ in range(_NUM_STEPS):
        gap[active] = distances(solids, eye + depth[active, None] * rays[active]).min(axis=0)
        depth[active] += _STEP * gap[active]
        active = active[(gap[active] > _NEAR) & (depth[active] < _FAR)]
        if not len(active):
            break
    return np.where(gap < 10 * _NEAR, depth, np.inf)


def normals(solids: Sequence[Solid], points: Floats) -> Floats:
    """Unit vectors that point away from the surface, [N, 3]."""
    step = 2e-3
    here = distances(solids, points).min(axis=0)
    slopes = np.stack([distances(solids, points + step * axis).min(axis=0) - here for axis in np.eye(3)], axis=1)
    return np.asarray(slopes / np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-9))


def light_reaching(solids: Sequence[Solid], points: Floats, toward_light: Floats) -> Floats:
    """How much light arrives at each point, 0 in the shadow of a solid to 1, soft at its border, [N]."""
    depth = np.full(len(points), 0.03)
    light = np.ones(len(points))
    for _ in range(_NUM_SHADOW_STEPS):
        gap = distances(solids, points + depth[:, None] * toward_light).min(axis=0)
        light = np.minimum(light, np.clip(10 * gap / depth, 0.0, 1.0))
        depth += np.clip(gap, 0.02, 0.3)
    return light
