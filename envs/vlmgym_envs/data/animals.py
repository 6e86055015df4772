"""Decides what animals are made of: solids whose proportions, poses and colors vary.

An animal stands on the plane y = 0, looks along x and is about 1 to 2 long.
"""

from dataclasses import dataclass
from math import cos, radians, sin
from typing import NamedTuple

import numpy as np

from vlmgym_envs.data.solids import RGB, Limb, Point, Solid


class Paint(NamedTuple):
    """The colors of one thing: most of it, some parts of it, and its darkest and its lightest parts."""

    main: RGB
    second: RGB
    dark: RGB
    light: RGB


Rng = np.random.Generator


def ball(center: Point, radius: float, color: RGB, squash: Point = (1.0, 1.0, 1.0)) -> Limb:
    return Limb(center, center, radius, radius, color, squash)


def chain(points: list[Point], radii: list[float], color: RGB) -> list[Solid]:
    """Limbs from each point to the next one."""
    return [
        Limb(points[number], points[number + 1], radii[number], radii[number + 1], color)
        for number in range(len(points) - 1)
    ]


@dataclass(frozen=True)
class Head:
    """The head of an animal with four legs: places on it, seen from its middle. turn: to the side; nod: downward."""

    middle: Point
    turn: float
    nod: float

    def at(self, ahead: float, up: float, side: float) -> Point:
        down, flat = ahead * sin(self.nod), ahead * cos(self.nod)
        rise = up * cos(self.nod)
        flat += up * sin(self.nod)
        x, y, z = self.middle
        return (
            x + flat * cos(self.turn) - side * sin(self.turn),
            y + rise - down,
            z + flat * sin(self.turn) + side * cos(self.turn),
        )


@dataclass(frozen=True)
class Build:
    """Proportions of an animal with four legs."""

    length: float
    girth: float
    leg: float
    leg_radius: float
    neck: float
    neck_rise_deg: float
    neck_radius: float
    head: float
    muzzle: float
    muzzle_radius: float
    nod_deg: float


def horse(rng: Rng, paint: Paint) -> list[Solid]:
    build = Build(1.0, 0.23, 0.78, 0.075, 0.62, rng.uniform(30, 58), 0.15, 0.12, 0.30, 0.075, rng.uniform(35, 55))
    solids, head, (base, top) = _four_legs(rng, paint, build)
    mane = [(base[0] - 0.10, base[1] + 0.16, 0.0), (top[0] - 0.10, top[1] + 0.08, 0.0)]
    solids.append(Limb(mane[0], mane[1], 0.07, 0.07, paint.dark))
    solids.append(ball(head.at(0.05, 0.11, 0.0), 0.06, paint.dark))
    solids += [Limb(head.at(-0.03, 0.1, z), head.at(-0.02, 0.2, z), 0.035, 0.01, paint.main) for z in (-0.06, 0.06)]
    rump_y, swing = build.leg + build.girth, rng.uniform(-0.15, 0.15)
    tail: list[Point] = [(-0.68, rump_y + 0.08, 0.0), (-0.84, rump_y - 0.1, swing / 2), (-0.86, rump_y - 0.6, swing)]
    return solids + chain(tail, [0.05, 0.09, 0.06], paint.dark)


def deer(rng: Rng, paint: Paint) -> list[Solid]:
    build = Build(0.78, 0.19, 0.80, 0.052, 0.50, rng.uniform(50, 75), 0.10, 0.095, 0.19, 0.05, rng.uniform(5, 25))
    solids, head, _ = _four_legs(rng, paint, build)
    spread, height = rng.uniform(0.16, 0.26), rng.uniform(0.42, 0.58)
    for side in (-1, 1):
        solids.append(
            Limb(head.at(-0.06, 0.06, side * 0.08), head.at(-0.10, 0.1, side * 0.27), 0.055, 0.03, paint.main)
        )
        beam = [
            head.at(-0.03, 0.08, side * 0.05),
            head.at(-0.16, 0.5 * height, side * spread),
            head.at(-0.05, height + 0.08, side * (spread + 0.06)),
        ]
        solids += chain(beam, [0.036, 0.034, 0.024], paint.light)
        for part in (0.35, 0.75):
            foot = head.at(
                -0.03 - 0.13 * part, 0.08 + (0.5 * height - 0.08) * part, side * (0.05 + (spread - 0.05) * part)
            )
            tip = head.at(0.12 - 0.08 * part, 0.12 + 0.75 * height * part + 0.08, side * (0.06 + spread * part))
            solids.append(Limb(foot, tip, 0.032, 0.022, paint.light))
    rump_y = build.leg + build.girth
    solids.append(Limb((-0.55, rump_y + 0.08, 0.0), (-0.64, rump_y - 0.02, 0.0), 0.05, 0.035, paint.light))
    return solids


def dog(rng: Rng, paint: Paint) -> list[Solid]:
    leg = rng.uniform(0.34, 0.52)
    build = Build(0.78, 0.19, leg, 0.075, 0.28, rng.uniform(35, 60), 0.13, 0.165, 0.27, 0.085, rng.uniform(0, 20))
    solids, head, _ = _four_legs(rng, paint, build)
    solids.append(ball(head.at(0.36, 0.035, 0.0), 0.05, paint.dark))
    for side in (-1, 1):
        ear = [head.at(-0.04, 0.12, side * 0.13), head.at(-0.06, -0.02, side * 0.2), head.at(-0.05, -0.19, side * 0.19)]
        solids += chain(ear, [0.05, 0.075, 0.055], paint.second)
    rump_y, curl = leg + build.girth, rng.uniform(0.0, 0.3)
    tail: list[Point] = [
        (-0.52, rump_y + 0.05, 0.0),
        (-0.72, rump_y + 0.26, 0.05),
        (-0.76 + curl, rump_y + 0.46, 0.08),
    ]
    return solids + chain(tail, [0.06, 0.05, 0.03], paint.main)


def cat(rng: Rng, paint: Paint) -> list[Solid]:
    if rng.random() < 0.4:
        return _sitting_cat(rng, paint)
    build = Build(0.72, 0.16, 0.33, 0.06, 0.17, rng.uniform(35, 60), 0.11, 0.175, 0.06, 0.07, rng.uniform(-5, 15))
    solids, head, _ = _four_legs(rng, paint, build, most_turn=1.2)
    rump_y, lean = build.leg + build.girth, rng.uniform(-0.25, 0.2)
    tail: list[Point] = [
        (-0.46, rump_y + 0.03, 0.0),
        (-0.66, rump_y + 0.2, 0.0),
        (-0.64 + lean / 2, rump_y + 0.5, lean / 3),
        (-0.55 + lean, rump_y + 0.72, lean / 2),
    ]
    return solids + chain(tail, [0.045, 0.042, 0.038, 0.035], paint.main) + _cat_face(head, paint)


def frog(rng: Rng, paint: Paint) -> list[Solid]:
    rise, width = rng.uniform(0.05, 0.22), rng.uniform(0.9, 1.1)
    solids: list[Solid] = [
        Limb((-0.42, 0.25, 0.0), (0.2, 0.28 + rise, 0.0), 0.2, 0.3, paint.main, (1.0, 1.15, 0.9)),
        ball((0.36, 0.30 + rise, 0.0), 0.27, paint.main, (1.0, 1.25, 0.85)),
        ball((0.40, 0.20 + rise, 0.0), 0.24, paint.light, (1.0, 1.5, 0.85)),
    ]
    for side in (-1, 1):
        solids.append(ball((0.36, 0.54 + rise, side * 0.17), 0.115, paint.main))
        solids.append(ball((0.42, 0.56 + rise, side * 0.235), 0.075, paint.light))
        solids.append(ball((0.44, 0.565 + rise, side * 0.285), 0.04, paint.dark))
        knee: Point = (0.02, 0.27, side * 0.55 * width)
        solids += chain([(-0.42, 0.22, side * 0.2), knee], [0.16, 0.13], paint.second)
        solids += chain([knee, (-0.42, 0.08, side * 0.5 * width)], [0.11, 0.06], paint.second)
        solids.append(Limb((-0.42, 0.04, side * 0.5), (-0.02, 0.04, side * 0.68), 0.05, 0.1, paint.second, (1, 2.5, 1)))
        elbow: Point = (0.3, 0.2 + rise / 2, side * 0.4 * width)
        solids += chain(
            [(0.25, 0.3 + rise, side * 0.22), elbow, (0.42, 0.05, side * 0.36)], [0.08, 0.06, 0.05], paint.second
        )
        solids.append(Limb((0.4, 0.04, side * 0.36), (0.58, 0.04, side * 0.42), 0.05, 0.09, paint.second, (1, 2.5, 1)))
    return solids


def bird(rng: Rng, paint: Paint) -> list[Solid]:
    leg, tilt, neck = rng.uniform(0.18, 0.5), rng.uniform(0.0, 0.25), rng.uniform(0.0, 0.3)
    body_y = leg + 0.25
    solids: list[Solid] = [
        Limb((-0.3, body_y - tilt / 2, 0.0), (0.22, body_y + tilt / 2, 0.0), 0.17, 0.24, paint.main),
        Limb((0.2, body_y + tilt / 2, 0.0), (0.32, body_y + tilt / 2 + 0.28 + neck, 0.0), 0.17, 0.11, paint.main),
    ]
    head_x, head_y = 0.36, body_y + tilt / 2 + 0.33 + neck
    turn = rng.uniform(-0.5, 0.5)
    head = Head((head_x, head_y, 0.0), turn, rng.uniform(-0.1, 0.2))
    solids.append(ball(head.middle, 0.155, paint.main))
    solids.append(
        Limb(head.at(0.11, 0.0, 0.0), head.at(rng.uniform(0.32, 0.45), -0.03, 0.0), 0.075, 0.012, paint.light)
    )
    solids += [ball(head.at(0.08, 0.05, z), 0.035, paint.dark) for z in (-0.125, 0.125)]
    drop = rng.uniform(-0.1, 0.2)
    tail_end: Point = (-0.95, body_y - tilt - drop, 0.0)
    solids.append(Limb((-0.4, body_y - tilt / 2, 0.0), tail_end, 0.1, 0.16, paint.second, (1.0, 3.5, 1.0)))
    spread = rng.random() < 0.45
    rise = rng.uniform(0.3, 0.7)
    for side in (-1, 1):
        shoulder: Point = (0.15, body_y + tilt / 2 + 0.1, side * 0.18)
        if spread:
            tip: Point = (-0.25, body_y + rise + 0.2, side * 0.95)
            solids.append(Limb(shoulder, tip, 0.26, 0.14, paint.second, (1.0, 3.0, 1.0)))
        else:
            solids.append(
                Limb(shoulder, (-0.5, body_y - tilt / 2 + 0.02, side * 0.17), 0.16, 0.07, paint.second, (1, 1, 1.6))
            )
        foot: Point = (0.02, 0.02, side * 0.11)
        solids += chain([(-0.05, body_y - 0.15, side * 0.1), foot], [0.035, 0.028], paint.light)
        solids.append(Limb(foot, (0.17, 0.02, side * 0.14), 0.03, 0.025, paint.light))
    return solids


def _four_legs(
    rng: Rng, paint: Paint, build: Build, most_turn: float = 0.6
) -> tuple[list[Solid], Head, tuple[Point, Point]]:
    """Body, legs, neck and a head with muzzle and eyes; the head's places; the two ends of the neck."""
    half, hip_y = build.length / 2, build.leg + build.girth * 0.8
    solids: list[Solid] = [
        Limb((-half, hip_y, 0.0), (half, hip_y, 0.0), build.girth * 0.92, build.girth, paint.main),
        Limb(
            (-half * 0.6, hip_y - 0.1, 0.0),
            (half * 0.7, hip_y - 0.1, 0.0),
            build.girth * 0.8,
            build.girth * 0.85,
            paint.light,
        ),
    ]
    for end in (-1, 1):
        for side in (-1, 1):
            swing = rng.uniform(-0.35, 0.35) * build.leg
            hip: Point = (end * half, hip_y - 0.05, side * build.girth * 0.55)
            knee: Point = (hip[0] + swing / 2 + 0.05 * end * build.leg, build.leg * 0.5, side * build.girth * 0.6)
            foot: Point = (hip[0] + swing, build.leg_radius * 0.8, side * build.girth * 0.6)
            radii = [build.leg_radius * 1.7, build.leg_radius, build.leg_radius * 0.8]
            solids += chain([hip, knee, foot], radii, paint.main)
            solids.append(ball(foot, build.leg_radius, paint.dark))
    rise = radians(build.neck_rise_deg)
    base: Point = (half, hip_y + build.girth * 0.25, 0.0)
    top: Point = (half + build.neck * cos(rise), base[1] + build.neck * sin(rise), 0.0)
    solids.append(Limb(base, top, build.neck_radius * 1.3, build.neck_radius, paint.main))
    head = Head(top, rng.uniform(-most_turn, most_turn), radians(build.nod_deg))
    solids.append(ball(head.middle, build.head, paint.main))
    solids.append(
        Limb(
            head.middle,
            head.at(build.head * 0.3 + build.muzzle, -0.02, 0.0),
            build.head * 0.85,
            build.muzzle_radius,
            paint.main,
        )
    )
    eye = build.head * 0.68
    solids += [ball(head.at(eye, eye * 0.55, side * eye), build.head * 0.26, paint.dark) for side in (-1, 1)]
    return solids, head, (base, top)


def _sitting_cat(rng: Rng, paint: Paint) -> list[Solid]:
    head = Head((0.2, 0.95, 0.0), rng.uniform(-1.2, 1.2), rng.uniform(-0.1, 0.2))
    lie = rng.uniform(-0.3, 0.5)
    solids: list[Solid] = [
        Limb((-0.12, 0.26, 0.0), (0.13, 0.66, 0.0), 0.26, 0.17, paint.main),
        Limb((0.13, 0.66, 0.0), head.middle, 0.14, 0.12, paint.main),
        Limb((0.22, 0.5, 0.0), (0.2, 0.7, 0.0), 0.1, 0.1, paint.light),
        ball(head.middle, 0.19, paint.main),
    ]
    for side in (-1, 1):
        solids.append(ball((-0.1, 0.18, side * 0.2), 0.18, paint.main, (1.0, 1.0, 1.4)))
        solids.append(Limb((0.0, 0.05, side * 0.22), (0.22, 0.05, side * 0.2), 0.06, 0.06, paint.main))
        solids += chain([(0.2, 0.55, side * 0.09), (0.27, 0.06, side * 0.09)], [0.08, 0.06], paint.main)
        solids.append(ball(head.at(0.13, 0.06, side * 0.11), 0.045, paint.dark))
    tail: list[Point] = [(-0.35, 0.1, 0.0), (-0.62, 0.07, lie / 2), (-0.5, 0.1, lie), (-0.2, 0.08, lie * 1.3)]
    return solids + chain(tail, [0.06, 0.055, 0.05, 0.045], paint.main) + _cat_face(head, paint)


def _cat_face(head: Head, paint: Paint) -> list[Solid]:
    """Pointed ears, a short light muzzle and a nose."""
    solids: list[Solid] = []
    for side in (-1, 1):
        solids.append(
            Limb(head.at(-0.02, 0.1, side * 0.1), head.at(-0.03, 0.31, side * 0.16), 0.085, 0.012, paint.main)
        )
    solids.append(ball(head.at(0.15, -0.06, 0.0), 0.075, paint.light))
    solids.append(ball(head.at(0.22, -0.03, 0.0), 0.03, paint.dark))
    return solids
