"""Image files -> RGB, as `Image.convert("RGB")` gives it, with the rotation that a camera noted applied."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mimbench.errors import UserError

# of several frames the first
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Unreadable(UserError):
    """A damaged file: it is left out, where other errors of reading end the run."""


class Picture:
    """An image file whose header is read; its pixels are decoded on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._image = Image.open(path)
            self._turn = self._image.getexif().get(ORIENTATION, 1) if "exif" in self._image.info else 1
        except Exception as error:  # Pillow's readers raise almost anything on damaged files
            raise failed(path, error) from error
        width, height = self._image.size
        if width * height > MAX_PIXELS:
            raise failed(path, ValueError(f"{width} x {height} pixels, and the cap is {MAX_PIXELS:,}"))
        self.size = (height, width) if self._turn in (5, 6, 7, 8) else (width, height)

    def close(self) -> None:
        self._image.close()

    def pixels(self, least: tuple[int, int] | None = None) -> Image.Image:
        """RGB. `least`: a JPEG file may be decoded at 1/2, 1/4 or 1/8, as long as width and height are not below it."""
        try:
            with self._image as image:
                if least is not None:
                    image.draft(None, least[::-1] if self._turn in (5, 6, 7, 8) else least)
                rgb = to_rgb(image)
        except Exception as error:
            raise failed(self.path, error) from error
        return rgb.transpose(TURNS[self._turn]) if self._turn in TURNS else rgb


def size_of(path: Path) -> tuple[int, int]:
    """Width and height as a Picture has them, by the header alone."""
    picture = Picture(path)
    picture.close()
    return picture.size


class Pixels:
    """An image in memory, (H, W, 3) uint8, as a Picture."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.size = array, (array.shape[1], array.shape[0])

    def pixels(self, least: tuple[int, int] | None = None) -> Image.Image:
        return Image.fromarray(self.array)


def opened(found: Path | np.ndarray) -> Picture | Pixels:
    return Pixels(found) if isinstance(found, np.ndarray) else Picture(found)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip to white
        gray = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.rint(gray).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns
    return image.convert("RGB")


def failed(path: Path, error: Exception) -> UserError:
    """Pillow's own errors have no `errno`: trouble of the disk or the machine does not make an image a damaged one."""
    if isinstance(error, MemoryError):
        return UserError(f"{path}: cannot be read (out of memory).")
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"{path}: cannot be read ({error.strerror}).")
    return Unreadable(f"{path}: not readable as an image ({' '.join(str(error).split()) or type(error).__name__}).")
