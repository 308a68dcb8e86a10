"""Herds of shapes: images of twelve shape classes with exact masks, drawn from a seed and nothing else.

A small model of photographs, for methods that predict what is hidden from what is seen:

- A class has an outline and markings of its own, as a species has a build and a coat. The markings follow the object's
  pose, so that a hidden patch can be predicted from the patches around it, and a part from the whole.
- An image shows a herd: three or four objects of one class in one coat, and sometimes a stray of another class. The hidden
  ones can be predicted from the visible ones, most patches show the class, and masks hold more than one place.
- Colors, polarity and phase of the markings, pose, ground and lighting say nothing about the class, so that neither a mean
  color nor a nearest image tells it. Tones vary mostly in luminance, as those of photographs do.
- Strokes behind and in front, overlaps, uneven light and noise are the clutter and the sensor: not all can be predicted.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # float32 throughout; numpy's own types widen to float64

VERSION = 2  # raised when any pixel changes by more than its last bit
SPLITS = ("train", "labeled", "val", "test")
CHUNK = 256  # images that share a seed; part of the definition of the data, as VERSION is

MAX_ROTATION = 0.4  # radians; twice as much makes the classes too hard to learn in minutes
MAX_LOG_ASPECT = 0.18
MAX_SHEAR = 0.15
PITCH = (6.0, 8.0)  # of the markings, radians per radius of the object: bands of more than two pixels at a side of 32
RADIUS = (0.42, 0.6)  # in half images, as the lengths below
PLACES = 4  # on a circle round the middle, turned at random
DISTANCE, MAX_SHIFT = 0.56, 0.22  # free places: an image's nearest neighbors in pixels are those with the same layout
FULL_CHANCE, STRAY_CHANCE = 0.5, 0.25  # that the last place has a fourth member, or a stray
LIGHT_TONE, DARK_TONE, GROUND_TONE = (0.7, 0.95), (0.05, 0.3), (0.3, 0.7)  # luminance
MAX_HUE = 0.05  # of each color channel around the luminance
GROUND_AMPLITUDE = 0.05
BACK_STROKES, BACK_STROKE_CHANCE, BACK_STROKE_WIDTH = 2, 0.25, (0.03, 0.10)
FRONT_STROKE_CHANCE, FRONT_STROKE_WIDTH = 0.3, (0.04, 0.11)
GAIN, MAX_GRADIENT = (0.85, 1.1), 0.25
PIXEL_NOISE = 0.02


class Shapes(NamedTuple):
    """Images with what they show: one label each, and the class of every pixel."""

    images: NDArray[np.uint8]  # (n, S, S, 3)
    labels: NDArray[np.int64]  # (n,), 0..11
    masks: NDArray[np.uint8]  # (n, S, S), 0 = ground, 1..12 = class + 1


def _box(x: Floats, y: Floats, center_y: float, half_width: float, half_height: float) -> Floats:
    return np.maximum(np.abs(x) - half_width, np.abs(y - center_y) - half_height)


def _star(x: Floats, y: Floats) -> Floats:
    turn = np.arctan2(x, y) * (5 / (2 * np.pi)) + 0.5
    valley = np.abs(turn % 1.0 - 0.5) * 2  # 0 at a tip, 1 between two
    return (np.hypot(x, y) - (1 - 0.58 * valley)) * 0.7


def _heart(x: Floats, y: Floats) -> Floats:
    x, y = x * 1.3, y * 1.3 + 0.12
    disk = x * x + y * y - 1
    return np.cbrt(disk * disk * disk - x * x * y * y * y) * 0.35


def _arrow(x: Floats, y: Floats) -> Floats:
    head = np.maximum(np.abs(x) * 0.75 + y * 0.66 - 0.55, 0.05 - y)
    return np.minimum(head, _box(x, y, -0.45, 0.2, 0.55))


# Negative inside, positive outside, growing about as fast as distance; the object spans -1..1 and y points up.
OUTLINES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disk": lambda x, y: np.hypot(x, y) - 0.8,
    "square": lambda x, y: _box(x, y, 0, 0.72, 0.72),
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.866 + y * 0.5, -y) - 0.48,
    "star": _star,
    "cross": lambda x, y: np.minimum(_box(x, y, 0, 0.92, 0.27), _box(x, y, 0, 0.27, 0.92)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.66) - 0.22,
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.92, 0.7 - np.hypot(x - 0.45, y)),
    "heart": _heart,
    "arrow": _arrow,
    "bowtie": lambda x, y: np.maximum(np.abs(y) - np.abs(x) * 0.85 - 0.08, np.abs(x) - 0.85),
    "tee": lambda x, y: np.minimum(_box(x, y, 0.6, 0.85, 0.26), _box(x, y, -0.2, 0.25, 0.75)),
    "flower": lambda x, y: (np.hypot(x, y) - (0.7 + 0.24 * np.cos(6 * np.arctan2(y, x)))) * 0.7,
}
CLASSES: tuple[str, ...] = tuple(OUTLINES)

# The coat of each class: positive where it has its first color, at x and y on the object, pitch w and phase p.
MARKINGS: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "disk": lambda x, y, w, p: np.sin(w * np.hypot(x, y) + p),  # rings
    "square": lambda x, y, w, p: 2 * np.sin(0.8 * w * x + p) * np.sin(0.8 * w * y + p),  # checks
    "triangle": lambda x, y, w, p: np.sin(w * y + p),  # bands
    "star": lambda x, y, w, p: 1.5 - 3 * np.hypot(x, y) + 0.15 * np.sin(p),  # a disk in the middle
    "cross": lambda x, y, w, p: np.cos(w * x + p) + np.cos(w * y + p) - 0.6,  # dots
    "ring": lambda x, y, w, p: np.sin(8 * np.arctan2(y, x) + p),  # spokes
    "crescent": lambda x, y, w, p: 1.2 * y + 0.3 * np.sin(p),  # a gradient
    "heart": lambda x, y, w, p: np.sin(w * x + p),  # stripes
    "arrow": lambda x, y, w, p: np.sin(0.8 * w * (y + np.abs(x)) + p),  # chevrons that point up
    "bowtie": lambda x, y, w, p: np.sin(0.7 * w * (y + x) + p),  # slanting stripes
    "tee": lambda x, y, w, p: 6 * x + 0.9 * np.sin(p),  # two halves
    "flower": lambda x, y, w, p: np.sin(0.7 * w * (y - np.abs(x)) + p),  # chevrons that point down
}


class Coats(NamedTuple):
    """What the members of a herd share, (n, 1, 1, 3) and (n, 1, 1)."""

    first: Floats
    second: Floats
    pitch: Floats
    phase: Floats


def _upsampling(points: int, size: int) -> Floats:
    """The matrix (size, points) that interpolates linearly."""
    position = np.linspace(0, points - 1, size)
    left = np.minimum(position.astype(int), points - 2)
    matrix = np.zeros((size, points), np.float32)
    matrix[np.arange(size), left] = 1 - (position - left)
    matrix[np.arange(size), left + 1] += position - left
    return matrix


class _Canvas:
    """One chunk of images being painted, from back to front."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        self.x, self.y = axis[None, None, :], axis[None, :, None]
        self.images = np.zeros((CHUNK, size, size, 3), np.float32)
        self.masks = np.zeros((CHUNK, size, size), np.uint8)

    def uniform(self, bounds: tuple[float, float], *shape: int) -> Floats:
        low, high = np.float32(bounds[0]), np.float32(bounds[1])
        return low + (high - low) * self.rng.random(shape, dtype=np.float32)

    def angles(self, count: int) -> tuple[Floats, Floats]:
        """Cosine and sine of angles from the full turn, (count, 1, 1) each."""
        angle = self.uniform((0, 2 * np.pi), count, 1, 1)
        return np.cos(angle), np.sin(angle)

    def rows(self, chance: float) -> NDArray[np.int64]:
        return np.flatnonzero(self.rng.random(CHUNK) < chance)

    def smooth_noise(self, count: int, points: int) -> Floats:
        """Normal noise at points x points, interpolated, (n, S, S)."""
        matrix = _upsampling(points, self.size)
        grid = self.rng.standard_normal((count, points, points), dtype=np.float32)
        return matrix @ grid @ matrix.T

    def colors(self, tone: tuple[float, float], count: int) -> Floats:
        """(n, 1, 1, 3): a luminance and a little hue."""
        return self.uniform(tone, count, 1, 1, 1) + self.uniform((-MAX_HUE, MAX_HUE), count, 1, 1, 3)

    def lay(self, rows: NDArray[np.int64], distance: Floats, paint: Floats, mask: NDArray[np.uint8] | None) -> None:
        """Blend paint over the given rows where the distance is negative; `mask` is what the pixels then show."""
        alpha = np.clip(0.5 - distance * (self.size / 2), 0, 1)[..., None]  # an edge one pixel wide
        self.images[rows] += alpha * (paint - self.images[rows])
        if mask is not None:
            self.masks[rows] = np.where(alpha[..., 0] > 0.5, mask[:, None, None], self.masks[rows])

    def ground(self) -> None:
        """Coarse noise on half of the images, fine noise on the others."""
        coarse, fine = self.smooth_noise(CHUNK, 4), self.smooth_noise(CHUNK, 10)
        noise = np.where(self.rng.random((CHUNK, 1, 1)) < 0.5, coarse, fine)
        self.images[:] = self.colors(GROUND_TONE, CHUNK) + GROUND_AMPLITUDE * noise[..., None]

    def strokes(self, chance: float, widths: tuple[float, float], hide: bool) -> None:
        """A straight bar over some of the images; one in front hides what it covers from the mask too."""
        rows = self.rows(chance)
        cosine, sine = self.angles(len(rows))
        offset, width = self.uniform((-0.9, 0.9), len(rows), 1, 1), self.uniform(widths, len(rows), 1, 1)
        distance = np.abs(cosine * self.x + sine * self.y - offset) - width
        paint = self.uniform((0, 1), len(rows), 1, 1, 3)
        self.lay(rows, distance, paint, np.zeros(len(rows), np.uint8) if hide else None)

    def coats(self) -> Coats:
        light, dark = self.colors(LIGHT_TONE, CHUNK), self.colors(DARK_TONE, CHUNK)
        swapped = self.rng.random((CHUNK, 1, 1, 1)) < 0.5
        first, second = np.where(swapped, dark, light), np.where(swapped, light, dark)
        return Coats(first, second, self.uniform(PITCH, CHUNK, 1, 1), self.uniform((0, 2 * np.pi), CHUNK, 1, 1))

    def objects(
        self, rows: NDArray[np.int64], labels: NDArray[np.int64], center: tuple[Floats, Floats], coats: Coats
    ) -> None:
        """One object of the given class on each of the rows, in a random pose; all arguments have n rows."""
        count = len(rows)
        radius = self.uniform(RADIUS, count, 1, 1)
        rotation = self.uniform((-MAX_ROTATION, MAX_ROTATION), count, 1, 1)
        aspect = np.exp(self.uniform((-MAX_LOG_ASPECT, MAX_LOG_ASPECT), count, 1, 1))
        shear = self.uniform((-MAX_SHEAR, MAX_SHEAR), count, 1, 1)
        cosine, sine = np.cos(rotation), np.sin(rotation)
        right, up = self.x - center[0], center[1] - self.y
        y = (cosine * up - sine * right) / radius / aspect
        x = (cosine * right + sine * up) / radius * aspect + shear * y
        distance, marking = np.empty_like(x), np.empty_like(x)
        for label, name in enumerate(CLASSES):
            same = labels == label
            distance[same] = OUTLINES[name](x[same], y[same])
            marking[same] = MARKINGS[name](x[same], y[same], coats.pitch[same], coats.phase[same])
        share = np.clip(0.5 + 0.9 * marking, 0, 1)[..., None]  # of the first color; soft edges, as a lens has them
        paint = coats.second + share * (coats.first - coats.second)
        self.lay(rows, distance * radius, paint, (labels + 1).astype(np.uint8))

    def herd(self, labels: NDArray[np.int64]) -> None:
        """Three members in one coat, and behind them a fourth, a stray, or nothing."""
        coats = Coats(*(np.concatenate(both) for both in zip(self.coats(), self.coats(), strict=True)))  # herds, strays
        labels = np.concatenate([labels, self.rng.integers(0, len(CLASSES), CHUNK)])
        last = self.rng.random(CHUNK)
        behind = np.flatnonzero(last < FULL_CHANCE + STRAY_CHANCE)
        cosine, sine = self.angles(CHUNK)
        for place in range(PLACES):
            rows = who = np.arange(CHUNK)
            if place == 0:  # painted first: behind the others
                rows, who = behind, np.where(last[behind] < FULL_CHANCE, behind, behind + CHUNK)
            shift_x, shift_y = (self.uniform((-MAX_SHIFT, MAX_SHIFT), len(rows), 1, 1) for _ in range(2))
            center = (DISTANCE * cosine[rows] + shift_x, DISTANCE * sine[rows] + shift_y)
            self.objects(rows, labels[who], center, Coats(*(part[who] for part in coats)))
            cosine, sine = -sine, cosine  # a quarter turn

    def light(self) -> NDArray[np.uint8]:
        """The finished images under a gradient of light, with the noise of a sensor."""
        cosine, sine = self.angles(CHUNK)
        gradient = self.uniform((0, MAX_GRADIENT), CHUNK, 1, 1)
        light = self.uniform(GAIN, CHUNK, 1, 1) * (1 + gradient * (cosine * self.x + sine * self.y))
        # Last of all draws and the only one that depends on the size: a scene is the same at every size.
        noise = self.rng.standard_normal(self.images.shape, dtype=np.float32)
        lit = self.images * light[..., None] + PIXEL_NOISE * noise
        return np.rint(np.clip(lit, 0, 1) * 255).astype(np.uint8)


def _render_chunk(draw: str, split: str, chunk: int, size: int) -> Shapes:
    digest = hashlib.sha256(f"{draw}/{VERSION}/{split}/{chunk}".encode()).digest()
    canvas = _Canvas(np.random.default_rng(int.from_bytes(digest)), size)
    labels = canvas.rng.integers(0, len(CLASSES), CHUNK)
    canvas.ground()
    for _ in range(BACK_STROKES):
        canvas.strokes(BACK_STROKE_CHANCE, BACK_STROKE_WIDTH, hide=False)
    canvas.herd(labels)
    canvas.strokes(FRONT_STROKE_CHANCE, FRONT_STROKE_WIDTH, hide=True)
    return Shapes(canvas.light(), labels, canvas.masks)


def render(count: int, split: str, size: int = 32, draw: str = "shapes") -> Shapes:
    """The first `count` images of a split; image i depends on (VERSION, draw, split, i) and the size alone.

    Up to rounding: a processor without AVX2 draws 8 of the 1.8 million values of 600 validation images one gray level apart
    (NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL"); labels and masks are the same.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of shapes; allowed: {', '.join(SPLITS)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    chunks = [_render_chunk(draw, split, chunk, size) for chunk in range(-(-count // CHUNK))]
    images, labels, masks = (np.concatenate(parts)[:count] for parts in zip(*chunks, strict=True))
    return Shapes(images, labels, masks)
