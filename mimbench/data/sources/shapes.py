"""Shapes in clutter: images of twelve textured shape classes with exact masks, drawn from a seed and nothing else.

Each image holds one main object, sometimes a smaller one behind it, and strokes behind and in front. Colors, texture,
pose and lighting say nothing about the class, so an encoder has to see the outline.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # float32 throughout; numpy's own types widen to float64

VERSION = 1  # raised when any pixel changes by more than its last bit
SPLITS = ("train", "labeled", "val", "test")
CHUNK = 256  # images that share a seed; part of the definition of the data, as VERSION is

# The parameters below are those of the one of six prototypes on which pre-training helped; the documentation says so.
MAX_ROTATION = 0.4  # radians; a full turn makes the classes too hard to learn from a thousand labels
MAX_SHIFT = 0.15  # of half the image
MAX_LOG_ASPECT = 0.18
MAX_SHEAR = 0.15
MAIN_RADIUS = (0.6, 0.95)
SECOND_CHANCE, SECOND_RADIUS = 0.4, (0.28, 0.42)
SECOND_DISTANCE, MAIN_RETREAT = 0.68, 0.28  # the main object makes room for the second
BACK_STROKES, BACK_STROKE_CHANCE, BACK_STROKE_WIDTH = 2, 0.25, (0.03, 0.10)
FRONT_STROKE_CHANCE, FRONT_STROKE_WIDTH = 0.3, (0.04, 0.11)
GROUND_COLOR, OBJECT_COLOR = (0.05, 0.59), (0.41, 0.95)  # brighter objects are what made the data learnable
MIN_CONTRAST, CONTRAST_TRIES = 0.24, 6
TEXTURE_AMPLITUDE = 0.06
GROUND_FREQUENCY, OBJECT_FREQUENCY = (3.5, 11.0), (3.5, 9.0)
GAIN, MAX_GRADIENT = (0.75, 1.15), 0.3
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

    def smooth_noise(self, count: int, points: int, amplitude: float) -> Floats:
        matrix = _upsampling(points, self.size)
        grid = self.rng.standard_normal((count, points, points), dtype=np.float32)
        return matrix @ (amplitude * grid) @ matrix.T

    def texture(self, x: Floats, y: Floats, frequencies: tuple[float, float]) -> Floats:
        """A grating, a checkerboard, or coarse or fine noise for each row, (n, S, S) in 0..1."""
        count = len(x)
        kind = self.rng.integers(0, 4, count)
        waves = np.flatnonzero(kind < 2)
        frequency, phase = self.uniform(frequencies, len(waves), 1, 1), self.uniform((0, 6.28), len(waves), 1, 1)
        cosine, sine = self.angles(len(waves))
        x, y = x[waves], y[waves]
        wave = np.sin((cosine * x + sine * y) * frequency + phase)
        checks = kind[waves] == 1
        across = np.sin(((cosine * y - sine * x) * frequency + 2 * phase)[checks])
        wave[checks] = np.clip(3 * wave[checks] * across, -1, 1)
        value = np.empty((count, self.size, self.size), np.float32)
        value[waves] = wave
        value[kind == 2] = self.smooth_noise(int((kind == 2).sum()), 4, 1.0)
        value[kind == 3] = self.smooth_noise(int((kind == 3).sum()), 10, 0.8)
        return np.clip(0.5 + 0.5 * value, 0, 1)

    def object_colors(self, ground: Floats) -> Floats:
        """Mean colors (n, 3), drawn again where too close to the ground's."""
        color = self.uniform(OBJECT_COLOR, len(ground), 3)
        for _ in range(CONTRAST_TRIES):
            close = np.abs(color - ground).mean(1) < MIN_CONTRAST
            color[close] = self.uniform(OBJECT_COLOR, int(close.sum()), 3)
        return color

    def paint(self, color: Floats, texture: Floats) -> Floats:
        """Textured color (n, S, S, 3): the texture runs from one side of the mean color to the other."""
        swing = self.uniform((-TEXTURE_AMPLITUDE, TEXTURE_AMPLITUDE), len(color), 3)
        low, high = np.clip(color - swing, 0, 1), np.clip(color + swing, 0, 1)
        return low[:, None, None] + (high - low)[:, None, None] * texture[..., None]

    def lay(self, rows: NDArray[np.int64], distance: Floats, paint: Floats, mask: NDArray[np.uint8] | None) -> None:
        """Blend paint over the given rows where the distance is negative; `mask` is what the pixels then show."""
        alpha = np.clip(0.5 - distance * (self.size / 2), 0, 1)[..., None]  # an edge one pixel wide
        self.images[rows] += alpha * (paint - self.images[rows])
        if mask is not None:
            self.masks[rows] = np.where(alpha[..., 0] > 0.5, mask[:, None, None], self.masks[rows])

    def ground(self) -> Floats:
        """Paint the ground and return its mean colors."""
        color = self.uniform(GROUND_COLOR, CHUNK, 3)
        shape = (CHUNK, self.size, self.size)
        x, y = np.broadcast_to(self.x, shape), np.broadcast_to(self.y, shape)
        self.images[:] = self.paint(color, self.texture(x, y, GROUND_FREQUENCY))
        return color

    def strokes(self, chance: float, widths: tuple[float, float], hide: bool) -> None:
        """A straight bar over some of the images; one in front hides what it covers from the mask too."""
        rows = self.rows(chance)
        cosine, sine = self.angles(len(rows))
        offset, width = self.uniform((-0.9, 0.9), len(rows), 1, 1), self.uniform(widths, len(rows), 1, 1)
        distance = np.abs(cosine * self.x + sine * self.y - offset) - width
        paint = self.uniform((0, 1), len(rows), 1, 1, 3)
        self.lay(rows, distance, paint, np.zeros(len(rows), np.uint8) if hide else None)

    def objects(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        center: tuple[Floats, Floats],
        radii: tuple[float, float],
        ground: Floats,
    ) -> None:
        """One object of the given class on each of the rows, in a random pose."""
        count = len(rows)
        radius = self.uniform(radii, count, 1, 1)
        rotation = self.uniform((-MAX_ROTATION, MAX_ROTATION), count, 1, 1)
        aspect = np.exp(self.uniform((-MAX_LOG_ASPECT, MAX_LOG_ASPECT), count, 1, 1))
        shear = self.uniform((-MAX_SHEAR, MAX_SHEAR), count, 1, 1)
        cosine, sine = np.cos(rotation), np.sin(rotation)
        right, up = self.x - center[0], center[1] - self.y
        y = (cosine * up - sine * right) / radius / aspect
        x = (cosine * right + sine * up) / radius * aspect + shear * y
        distance = np.empty_like(x)
        for label, outline in enumerate(OUTLINES.values()):
            chosen = labels == label
            distance[chosen] = outline(x[chosen], y[chosen])
        texture = self.texture(x * radius, y * radius, OBJECT_FREQUENCY)
        paint = self.paint(self.object_colors(ground[rows]), texture)
        self.lay(rows, distance * radius, paint, (labels + 1).astype(np.uint8))

    def light(self) -> NDArray[np.uint8]:
        """The finished images under a gradient of light, with the noise of a sensor."""
        cosine, sine = self.angles(CHUNK)
        gradient = self.uniform((0, MAX_GRADIENT), CHUNK, 1, 1)
        light = self.uniform(GAIN, CHUNK, 1, 1) * (1 + gradient * (cosine * self.x + sine * self.y))
        # Last of all draws and the only one that depends on the size: a scene is the same at every size.
        noise = self.rng.standard_normal(self.images.shape, dtype=np.float32)
        lit = self.images * light[..., None] + PIXEL_NOISE * noise
        return np.rint(np.clip(lit, 0, 1) * 255).astype(np.uint8)


def _render_chunk(split: str, chunk: int, size: int) -> Shapes:
    name = "labelled" if split == "labeled" else split  # as version 1 spells it
    digest = hashlib.sha256(f"shapes/{VERSION}/{name}/{chunk}".encode()).digest()
    canvas = _Canvas(np.random.default_rng(int.from_bytes(digest)), size)
    labels = canvas.rng.integers(0, len(CLASSES), CHUNK)
    ground = canvas.ground()
    for _ in range(BACK_STROKES):
        canvas.strokes(BACK_STROKE_CHANCE, BACK_STROKE_WIDTH, hide=False)

    second = canvas.rows(SECOND_CHANCE)
    cosine, sine = canvas.angles(len(second))
    second_labels = canvas.rng.integers(0, len(CLASSES), len(second))
    canvas.objects(second, second_labels, (SECOND_DISTANCE * cosine, SECOND_DISTANCE * sine), SECOND_RADIUS, ground)

    x, y = (canvas.uniform((-MAX_SHIFT, MAX_SHIFT), CHUNK, 1, 1) for _ in range(2))
    x[second] -= MAIN_RETREAT * cosine
    y[second] -= MAIN_RETREAT * sine
    canvas.objects(np.arange(CHUNK), labels, (x, y), MAIN_RADIUS, ground)
    canvas.strokes(FRONT_STROKE_CHANCE, FRONT_STROKE_WIDTH, hide=True)
    return Shapes(canvas.light(), labels, canvas.masks)


def render(count: int, split: str, size: int = 32) -> Shapes:
    """The first `count` images of a split; image i depends on (VERSION, split, i) and the size alone.

    Up to rounding: a processor without AVX2 draws 27 of the 6.3 million values of 2048 test images one gray level apart
    (NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL"); labels and masks are the same.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of shapes; allowed: {', '.join(SPLITS)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    chunks = [_render_chunk(split, chunk, size) for chunk in range(-(-count // CHUNK))]
    images, labels, masks = (np.concatenate(parts)[:count] for parts in zip(*chunks, strict=True))
    return Shapes(images, labels, masks)
