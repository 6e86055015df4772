"""Draws the embedded picture set: `python -m vlmgym_envs.data.make_pictures [FILE]` writes `pictures.jpg`.

Each picture is a scene of its own: a thing whose proportions, pose, colors and pattern are drawn at random, seen by a
camera at random, in random light, on some ground or before a background that have nothing to do with the class. So the
form tells the class, and neither the colors nor the surroundings do.
"""

import sys
from collections.abc import Callable
from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmgym_envs.data import CLASS_NAMES, NUM_PICTURES, SHEET, SIDE_PX
from vlmgym_envs.data.animals import Paint, Rng, bird, cat, deer, dog, frog, horse
from vlmgym_envs.data.solids import (
    Camera,
    Floats,
    Solid,
    camera_at,
    distances,
    light_reaching,
    march,
    normals,
)
from vlmgym_envs.data.vehicles import airplane, automobile, ship, truck

Pixels = NDArray[np.uint8]

MODELS: tuple[Callable[[Rng, Paint], list[Solid]], ...] = (
    airplane,
    automobile,
    bird,
    cat,
    deer,
    dog,
    frog,
    horse,
    ship,
    truck,
)
"""In the order of CLASS_NAMES."""
JPEG_QUALITY = 88

_OVERSAMPLING = 3


def main(path: Path) -> None:
    """Writes the sheet that vlmgym_envs.data describes."""
    per_class = sum(NUM_PICTURES.values())
    rows = [
        np.concatenate([picture(number, index) for index in range(per_class)], axis=1)
        for number in range(len(CLASS_NAMES))
    ]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    sheet.save(path, quality=JPEG_QUALITY, subsampling=0, optimize=True)


def picture(class_number: int, index: int) -> Pixels:
    """Picture `index` of a class, uint8 [SIDE_PX, SIDE_PX, 3]; the same in every run."""
    rng = np.random.default_rng([class_number, index])
    paint = _paint(rng)
    solids = MODELS[class_number](rng, paint)
    camera = _camera(rng, solids)
    return _developed(rng, _scene(rng, solids, paint, camera))


def _paint(rng: Rng) -> Paint:
    """Any thing may have any color."""
    hues, saturations = rng.random(2), rng.uniform(0.1, 0.65, 2)
    main = hsv_to_rgb(hues[0], saturations[0], rng.uniform(0.4, 0.95))
    second = hsv_to_rgb(hues[1], saturations[1], rng.uniform(0.3, 0.95))
    return Paint(main, second, hsv_to_rgb(hues[0], 0.3, 0.1), hsv_to_rgb(hues[1], 0.12, 0.92))


def _camera(rng: Rng, solids: list[Solid]) -> Camera:
    """From either side or obliquely from ahead, from somewhat above."""
    turn = rng.uniform(-0.3, 0.95)
    if rng.random() < 0.5:
        turn = np.pi - turn
    return camera_at(solids, turn, rng.uniform(0.06, 0.42), rng.uniform(-0.08, 0.08), rng.uniform(0.84, 0.97))


def _scene(rng: Rng, solids: list[Solid], paint: Paint, camera: Camera) -> Floats:
    """The light that arrives from each ray, 0..1, [rays, 3]."""
    rays = camera.rays(SIDE_PX * _OVERSAMPLING)
    toward_light = _unit([rng.uniform(-1, 1), rng.uniform(0.6, 1.6), np.sign(camera.eye[2]) * rng.uniform(0.1, 1)])
    image = _backdrop(rng)
    depth = march(solids, camera.eye, rays)
    with np.errstate(divide="ignore"):
        ground_depth = np.where(rays[:, 1] < 0, -camera.eye[1] / rays[:, 1], np.inf)
    if rng.random() < 0.75:
        on_ground = (ground_depth < depth) & (ground_depth < 12 * float(np.linalg.norm(camera.eye)))
        points = camera.eye + ground_depth[on_ground, None] * rays[on_ground]
        shade = 0.55 + 0.45 * light_reaching(solids, points, toward_light)
        haze = np.clip(ground_depth[on_ground, None] / 60, 0, 1)
        image[on_ground] = _ground(rng, points) * shade[:, None] * (1 - haze) + image[on_ground] * haze
        depth[on_ground] = np.inf
    on_thing = np.isfinite(depth)
    points = camera.eye + depth[on_thing, None] * rays[on_thing]
    image[on_thing] = _lit(rng, solids, paint, points, toward_light)
    return image


def _lit(rng: Rng, solids: list[Solid], paint: Paint, points: Floats, toward_light: Floats) -> Floats:
    """The colors of a thing at points of its surface, some of it with a pattern, in the light."""
    colors = np.array([solid.color for solid in solids])[distances(solids, points).argmin(axis=0)]
    pattern = rng.choice(["none", "spots", "stripes"], p=[0.6, 0.2, 0.2])
    if pattern != "none":
        waves = _waves(rng, points, 9.0) if pattern == "spots" else np.sin(points @ rng.uniform(-1, 1, 3) * 22)
        marked = (waves > 0.35) & (np.abs(colors - np.array(paint.main)).max(axis=1) < 1e-6)
        colors[marked] = 0.35 * colors[marked] + 0.65 * np.array(paint.second)
    facing = normals(solids, points)
    sun = np.maximum(facing @ toward_light, 0) * light_reaching(solids, points + 0.02 * facing, toward_light)
    sky = 0.5 + 0.5 * facing[:, 1]
    strength = rng.uniform(0.55, 0.8)
    return np.asarray(colors * (0.25 + 0.25 * sky + strength * sun)[:, None])


def _backdrop(rng: Rng) -> Floats:
    """A gradient with a few large soft spots, [rays, 3]."""
    side = SIDE_PX * _OVERSAMPLING
    y, x = np.mgrid[0:side, 0:side] / side
    top, bottom = (np.array(hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.5), rng.uniform(0.35, 1.0))) for _ in range(2))
    image = top + (bottom - top) * y[..., None]
    for _ in range(rng.integers(5)):
        spot = np.exp(-((x - rng.random()) ** 2 + (y - rng.random()) ** 2) / rng.uniform(0.005, 0.05))[..., None]
        image = image * (1 - 0.6 * spot) + 0.6 * spot * rng.uniform(0.1, 0.9, 3)
    return np.asarray(image.reshape(-1, 3))


def _ground(rng: Rng, points: Floats) -> Floats:
    color = np.array(hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.5), rng.uniform(0.35, 0.9)))
    rough = 1 + rng.uniform(0.02, 0.12) * _waves(rng, points * np.array([1.0, 0.0, 1.0]), 7.0)
    return np.asarray(color * rough[:, None])


def _waves(rng: Rng, points: Floats, frequency: float) -> Floats:
    """A random pattern without direction, about -1..1, [N]."""
    directions = rng.normal(size=(6, 3)) * frequency
    return np.asarray(np.sin(points @ directions.T + rng.uniform(0, 2 * np.pi, 6)).sum(axis=1) / 2.4)


def _developed(rng: Rng, image: Floats) -> Pixels:
    """Rays to pixels: exposure, a color cast and the noise of a sensor."""
    size = (SIDE_PX, _OVERSAMPLING, SIDE_PX, _OVERSAMPLING, 3)
    small = np.clip(image, 0, 1).reshape(size).mean(axis=(1, 3))
    small = small ** rng.uniform(0.75, 1.1) * rng.uniform(0.94, 1.04, 3) + rng.normal(
        0, rng.uniform(0.004, 0.016), small.shape
    )
    return np.asarray(np.rint(np.clip(small, 0, 1) * 255), dtype=np.uint8)


def _unit(vector: list[float]) -> Floats:
    return np.asarray(np.array(vector) / np.linalg.norm(vector))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SHEET)
