"""The toybox's shapes: where rays meet them, which way their surfaces face, and where their stripes are.

Everything is in an object's own frame: its centre at the origin, ``y`` up. Points and directions come as
three components, which broadcast. A hit is how far along the ray it lies, in lengths of the ray's direction,
or `MISS`.
"""

from __future__ import annotations

import torch

from videodit.datasets.toybox.motion import EXTENT

MISS = 1e9
RING_STEPS = 14
"""March steps for the ring; only rays that graze it need as many."""

Vector = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def hit(shape: str, o: Vector, d: Vector, radius: torch.Tensor) -> torch.Tensor:
    """The first hit of rays from ``o`` along ``d`` with a shape of this `motion.RADIUS`."""
    ex, ey, ez = (e * radius for e in EXTENT[shape])
    if shape == "ball":
        return ball(o, d, ex)
    if shape == "cube":
        return box(o, d, (ex, ey, ez))
    if shape == "cylinder":
        return cylinder(o, d, ex, ey)
    if shape == "cone":
        return cone(o, d, ex, ey)
    return ring(o, d, ex - ez, ez)


def normal(shape: str, point: Vector, radius: torch.Tensor) -> Vector:
    """Unit normals at points near the surface. High powers choose a face and round the edges by a hair."""
    x, y, z = point
    ex, ey, ez = EXTENT[shape]
    if shape == "ball":
        n = (x, y, z)
    elif shape == "cube":
        n = (
            x * (x / (ex * radius)) ** 18,
            y * (y / (ey * radius)) ** 18,
            z * (z / (ez * radius)) ** 18,
        )
    elif shape == "cylinder":
        side = ((x * x + z * z) / (ex * radius) ** 2) ** 9
        n = (x * side, y * (y / (ey * radius)) ** 18, z * side)
    elif shape == "cone":
        slope = ex / (2 * ey)
        across = (x * x + z * z).sqrt().clamp(min=1e-6)
        base = (y < -0.97 * ey * radius) & (across < 0.93 * ex * radius)
        n = (torch.where(base, 0, x / across), torch.where(base, -1, slope), torch.where(base, 0, z / across))
    else:
        around = (ex - ez) * radius * (x * x + y * y).rsqrt()
        n = (x - x * around, y - y * around, z)
    return _unit(n)


def shade(n: Vector, point: Vector, eye: Vector, light: Vector) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How much light surfaces send to the eye.

    Args:
        n: Unit normals.
        point: Where the surfaces are.
        eye: Where the camera is.
        light: Unit vectors towards the light.

    Returns:
        The direct light (a little of it reaches around the edge), the all-round light, and the highlight with
        the rim that a shiny surface has.
    """
    view = _unit((eye[0] - point[0], eye[1] - point[1], eye[2] - point[2]))
    middle = _unit((view[0] + light[0], view[1] + light[1], view[2] + light[2]))
    gloss = _dot(middle, n).clamp(min=0)
    for _ in range(5):  # Blinn-Phong, to the 32nd power
        gloss = gloss * gloss
    rim = 1 - _dot(view, n).clamp(0, 1)
    direct = (0.2 + 0.8 * _dot(n, light)).clamp(min=0)
    return direct, 0.82 + 0.18 * n[1], 0.9 * gloss + 0.3 * rim * rim * rim


def stripe(shape: str, point: Vector) -> torch.Tensor:
    """How much of each point is in one of three stripes, 0 to 1: meridians, or bands around the ring."""
    x, y, z = point
    a, b = (x, y) if shape == "ring" else (x, z)
    c = a * (a * a + b * b + 1e-6).rsqrt()
    triple = (4 * c * c - 3) * c  # the cosine of three times the angle
    return ((triple - 0.76) * 5 + 0.5).clamp(0, 1)


def ball(o: Vector, d: Vector, radius: torch.Tensor) -> torch.Tensor:
    """A sphere."""
    a, b, c = _dot(d, d), _dot(o, d), _dot(o, o) - radius * radius
    disc = b * b - a * c
    return torch.where(disc > 0, (-b - disc.clamp(min=0).sqrt()) / a, MISS)


def box(o: Vector, d: Vector, half: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """A box: the rays' overlap with three slabs."""
    near, far = _slab(o[0], d[0], half[0])
    for axis in (1, 2):
        enter, leave = _slab(o[axis], d[axis], half[axis])
        near, far = torch.maximum(near, enter), torch.minimum(far, leave)
    return torch.where(near < far, near, MISS)


def cylinder(o: Vector, d: Vector, radius: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """A capped cylinder around the y axis."""
    a = d[0] * d[0] + d[2] * d[2] + 1e-12
    b = o[0] * d[0] + o[2] * d[2]
    c = o[0] * o[0] + o[2] * o[2] - radius * radius
    disc = b * b - a * c
    root = disc.clamp(min=0).sqrt()
    enter, leave = _slab(o[1], d[1], half)
    near, far = torch.maximum(enter, (-b - root) / a), torch.minimum(leave, (root - b) / a)
    return torch.where((disc > 0) & (near < far), near, MISS)


def cone(o: Vector, d: Vector, radius: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """A cone around the y axis: its base at ``-half`` with this radius, its tip at ``+half``."""
    slope2 = (radius / (2 * half)) ** 2
    below = half - o[1]  # how far the origin is below the tip
    a = d[0] * d[0] + d[2] * d[2] - slope2 * d[1] * d[1]
    b = o[0] * d[0] + o[2] * d[2] + slope2 * below * d[1]
    c = o[0] * o[0] + o[2] * o[2] - slope2 * below * below
    disc = b * b - a * c
    root = disc.clamp(min=0).sqrt()
    # Steep rays make `a` small or negative, which swaps the roots: look at both.
    safe = torch.where(a.abs() < 1e-9, 1e-9, a)
    first, second = (-b - root) / safe, (root - b) / safe
    side = torch.minimum(_within(first, o[1], d[1], half), _within(second, o[1], d[1], half))
    side = torch.where(disc > 0, side, MISS)
    base = (-half - o[1]) / _nonzero(d[1])
    x, z = o[0] + base * d[0], o[2] + base * d[2]
    return torch.minimum(side, torch.where((x * x + z * z < radius * radius) & (base > 0), base, MISS))


def ring(o: Vector, d: Vector, radius: torch.Tensor, tube: torch.Tensor) -> torch.Tensor:
    """A torus around the z axis, marched from where its bounding cylinder begins.

    The quartic has a closed form, but in float32 its roots are noise; a march along the distance is not.
    """
    bound = cylinder((o[0], o[2], o[1]), (d[0], d[2], d[1]), radius + tube, tube)
    out = torch.full_like(bound, MISS)
    alive = (bound < MISS).flatten().nonzero().squeeze(1)
    if alive.numel() == 0:
        return out
    ox, oy, oz, dx, dy, dz, start, big, small = (
        v.expand_as(bound).flatten()[alive] for v in (*o, *d, bound, radius, tube)
    )
    speed = (dx * dx + dy * dy + dz * dz).rsqrt()
    t = start
    for _ in range(RING_STEPS):
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        off = (x * x + y * y).sqrt() - big
        distance = (off * off + z * z).sqrt() - small
        t = t + distance * speed
    hit = (distance < 0.06 * small) & (t < start + 6 * big * speed)
    out.view(-1)[alive] = torch.where(hit, t, MISS)
    return out


def _dot(a: Vector, b: Vector) -> torch.Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(v: Vector) -> Vector:
    scale = (_dot(v, v) + 1e-30).rsqrt()
    return v[0] * scale, v[1] * scale, v[2] * scale


def _nonzero(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < 1e-9, 1e-9, x)


def _slab(o: torch.Tensor, d: torch.Tensor, half: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inverse = 1 / _nonzero(d)
    middle, reach = -o * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _within(t: torch.Tensor, o: torch.Tensor, d: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    y = o + t * d
    return torch.where((y.abs() <= half) & (t > 0), t, MISS)
