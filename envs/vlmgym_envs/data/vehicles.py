"""Decides what vehicles are made of: solids whose proportions, kinds and colors vary.

A vehicle stands on the plane y = 0, or lies in it like a ship, heads along x and is about 2 long.
"""

import numpy as np

from vlmgym_envs.data.animals import Paint, Rng, ball
from vlmgym_envs.data.solids import Block, Limb, Point, Solid, Wheel


def automobile(rng: Rng, paint: Paint) -> list[Solid]:
    """A saloon, an estate car or a small car, more or less high."""
    length, height = rng.uniform(0.8, 1.05), rng.uniform(0.17, 0.23)
    cabin = rng.uniform(0.42, 0.62)
    cabin_x = rng.uniform(-0.22, 0.0) - 0.1 * (cabin > 0.52)
    belt = 0.16 + 2 * height
    roof = rng.uniform(0.15, 0.2)
    solids: list[Solid] = [
        Block((0.0, 0.16 + height, 0.0), (length, height, 0.42), paint.main, 0.1, (0.08, 0.1)),
        Block((cabin_x, belt + roof * 0.8, 0.0), (cabin + 0.08, roof, 0.37), paint.dark, 0.05, (0.38, 0.25)),
        Block((cabin_x, belt + roof * 1.75, 0.0), (cabin * 0.68, 0.05, 0.29), paint.main, 0.04),
        Block((cabin_x, belt + roof * 0.8, 0.0), (0.04, roof, 0.375), paint.main, 0.02, (0.0, 0.25)),
        Block((0.0, 0.2, 0.0), (length + 0.03, 0.06, 0.4), paint.dark, 0.03),
    ]
    for side in (-1, 1):
        solids.append(ball((length - 0.03, 0.2 + height, side * 0.28), 0.075, paint.light))
        solids.append(ball((0.02 - length, 0.2 + height, side * 0.3), 0.06, paint.second))
    return solids + _wheels([length * 0.62, -length * 0.62], 0.2, 0.38, paint)


def truck(rng: Rng, paint: Paint) -> list[Solid]:
    """A cab and behind it a box, a tank or an open bed."""
    length, cab_height = rng.uniform(0.7, 0.95), rng.uniform(0.42, 0.55)
    cab_x = length + 0.05
    solids: list[Solid] = [
        Block((cab_x, 0.25 + cab_height, 0.0), (0.27, cab_height, 0.4), paint.main, 0.06, (0.12, 0.05)),
        Block((cab_x + 0.15, 0.3 + cab_height * 1.4, 0.0), (0.1, cab_height * 0.34, 0.34), paint.dark, 0.03),
        Block((cab_x + 0.02, 0.3 + cab_height * 1.4, 0.0), (0.13, cab_height * 0.3, 0.4), paint.dark, 0.02),
        Block((0.1, 0.3, 0.0), (length + 0.25, 0.07, 0.3), paint.dark, 0.03),
        Block((cab_x + 0.26, 0.3, 0.0), (0.04, 0.08, 0.4), paint.light, 0.02),
    ]
    kind = rng.choice(["box", "tank", "bed"], p=[0.6, 0.2, 0.2])
    if kind == "box":
        height = rng.uniform(0.42, 0.62)
        solids.append(Block((-0.22, 0.4 + height, 0.0), (length, height, 0.44), paint.second, 0.03))
    elif kind == "tank":
        solids.append(Limb((0.38 - length, 0.8, 0.0), (length - 0.6, 0.8, 0.0), 0.4, 0.4, paint.second))
    else:
        solids.append(Block((-0.22, 0.52, 0.0), (length, 0.16, 0.44), paint.second, 0.03, (-0.05, -0.1)))
        solids += [ball((float(x), 0.62, 0.0), 0.32, paint.light) for x in np.linspace(0.1 - length, length - 0.55, 3)]
    return solids + _wheels([cab_x, -length * 0.45, -length * 0.95], 0.2, 0.38, paint)


def ship(rng: Rng, paint: Paint) -> list[Solid]:
    """A freighter with containers, a liner with decks or a sailing boat."""
    kind = rng.choice(["freighter", "liner", "sails"], p=[0.4, 0.4, 0.2])
    height = rng.uniform(0.14, 0.24)
    deck = 2 * height - 0.04
    solids: list[Solid] = [
        Block((0.0, height - 0.04, 0.0), (1.15, height, 0.3), paint.main, 0.02, (-0.14, -0.3), 0.92),
        Block((0.0, 0.02, 0.0), (1.12, 0.05, 0.28), paint.dark, 0.02, (0.0, 0.0), 0.92),
    ]
    if kind == "sails":
        mast = rng.uniform(1.2, 1.6)
        solids.append(Limb((0.1, deck, 0.0), (0.1, deck + mast, 0.0), 0.03, 0.02, paint.dark))
        solids.append(
            Block((-0.32, deck + mast / 2 + 0.1, 0.05), (0.75, mast / 2 - 0.1, 0.03), paint.light, 0.02, (0.96, 0.0))
        )
        solids.append(Block((0.42, deck + mast * 0.4, 0.0), (0.55, mast * 0.36, 0.03), paint.light, 0.02, (0.96, 0.0)))
        return solids
    bridge_x = rng.uniform(-0.85, -0.6) if kind == "freighter" else rng.uniform(-0.2, 0.1)
    if kind == "freighter":
        for x in (-0.3, 0.02, 0.34):
            tall = rng.uniform(0.08, 0.2)
            color = (paint.second, paint.light, paint.dark)[int(rng.integers(3))]
            solids.append(Block((x, deck + tall, 0.0), (0.14, tall, 0.25), color, 0.01))
        solids.append(Block((bridge_x, deck + 0.25, 0.0), (0.16, 0.28, 0.24), paint.light, 0.02))
        solids.append(Block((bridge_x + 0.03, deck + 0.42, 0.0), (0.15, 0.04, 0.245), paint.dark, 0.01))
    else:
        for level, half in enumerate((0.72, 0.58, 0.4)):
            solids.append(Block((bridge_x, deck + 0.08 + 0.16 * level, 0.0), (half, 0.085, 0.24), paint.light, 0.02))
            solids.append(
                Block((bridge_x, deck + 0.1 + 0.16 * level, 0.0), (half + 0.005, 0.025, 0.245), paint.dark, 0.01)
            )
    top = deck + (0.5 if kind == "freighter" else 0.45)
    for number in range(int(rng.integers(1, 3))):
        x = bridge_x - 0.12 + 0.28 * number
        solids.append(Limb((x, top - 0.1, 0.0), (x - 0.05, top + 0.28, 0.0), 0.075, 0.07, paint.second))
    solids.append(Limb((0.75, deck - 0.05, 0.0), (0.75, deck + 0.45, 0.0), 0.022, 0.015, paint.dark))
    return solids


def airplane(rng: Rng, paint: Paint) -> list[Solid]:
    """An airliner with swept wings or a small one with a propeller; standing, or in the air with its wheels in."""
    small = bool(rng.random() < 0.35)
    girth = rng.uniform(0.15, 0.19) if small else rng.uniform(0.11, 0.14)
    y = 0.38
    span, sweep = (1.0, 0.05) if small else (rng.uniform(0.95, 1.15), rng.uniform(0.45, 0.65))
    wing_y = y + (girth if small and rng.random() < 0.5 else -0.05)
    solids: list[Solid] = [
        Limb((-0.55, y, 0.0), (0.85, y, 0.0), girth, girth, paint.main),
        Limb((-0.55, y, 0.0), (-1.1, y + 0.08, 0.0), girth, 0.05, paint.main),
        Limb((-0.8, y + 0.05, 0.0), (-1.15, y + 0.52, 0.0), 0.17, 0.1, paint.second, (1.0, 1.0, 4.0)),
        ball((0.85 + girth * 0.45, y + girth * 0.5, 0.0), girth * 0.55, paint.dark),
    ]
    for side in (-1, 1):
        tip: Point = (0.15 - sweep, wing_y + 0.08, side * span)
        solids.append(Limb((0.15, wing_y, side * 0.05), tip, 0.26, 0.1, paint.main, (1.0, 6.0, 1.0)))
        tail_tip: Point = (-1.15 - sweep / 4, y + 0.12, side * 0.42)
        solids.append(Limb((-0.98, y + 0.08, 0.0), tail_tip, 0.13, 0.07, paint.second, (1.0, 5.0, 1.0)))
        if not small:
            for part in (0.35, 0.65)[: int(rng.integers(1, 3))]:
                x, z = 0.25 - sweep * part, side * span * part
                solids.append(Limb((x, wing_y - 0.1, z), (x + 0.28, wing_y - 0.1, z), 0.07, 0.08, paint.second))
        solids.append(Block((0.1, y + 0.03, side * girth), (0.55, 0.022, 0.01), paint.dark, 0.005))
    if small:
        solids.append(ball((0.85 + girth, y, 0.0), 0.06, paint.dark))
        solids.append(Limb((0.9 + girth, y - 0.3, 0.0), (0.9 + girth, y + 0.3, 0.0), 0.03, 0.03, paint.dark))
    if small or rng.random() < 0.3:
        solids.append(Limb((0.7, 0.07, 0.0), (0.7, y, 0.0), 0.05, 0.03, paint.dark))
        solids += [Limb((-0.05, 0.07, z), (-0.05, y, z), 0.06, 0.03, paint.dark) for z in (-0.25, 0.25)]
    return solids


def _wheels(places: list[float], radius: float, side: float, paint: Paint) -> list[Solid]:
    black = (0.05, 0.05, 0.06)
    solids: list[Solid] = []
    for x in places:
        for z in (-side, side):
            solids.append(Wheel((x, radius, z), radius, 0.07, black))
            solids.append(Wheel((x, radius, z * 1.03), radius * 0.5, 0.07, paint.light))
    return solids
