"""Rendering of an image file: transparent parts over a background, and EXIF orientation."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

ORIENTATION = 0x0112
"""EXIF tag of the orientation."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that brings an image with this value of the tag upright."""
_DEPTHS = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow multiplies the levels of a PNG of few bits; its transparent level is not multiplied."""


@dataclass(frozen=True)
class Rendering:
    """Conversion of a file's content to pixels."""

    background: int | None = 255
    """Grey level, 0 to 255, of the background of transparent parts; None: they have the colour stored in them."""
    upright: bool = True
    """Whether an image is turned as its EXIF orientation says."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return an image just opened, of mode L if stored as gray of at most 8 bits without alpha, else RGB."""
        flat = flatten(image, self.background)
        return upright(flat, image) if self.upright else flat


USUAL = Rendering()


def flatten(image: Image.Image, background: int | None) -> Image.Image:
    """Return an image just opened, over a background; an opaque one is unchanged."""
    _correct_key(image)
    plain = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if background is None or not image.has_transparency_data:
        return plain
    alpha = _alpha(image)
    if alpha.getextrema() == (255, 255):
        return plain
    canvas = Image.new(plain.mode, plain.size, background if plain.mode == "L" else (background,) * 3)
    canvas.paste(plain, mask=alpha)
    return canvas


def upright(image: Image.Image, source: Image.Image) -> Image.Image:
    """Return `image` turned by the orientation of its source file; Pillow has turned a TIFF already."""
    try:
        turn = TURNS.get(source.getexif().get(ORIENTATION, 1))
    except Exception:  # unreadable EXIF data affect no pixel
        return image
    return image if turn is None else image.transpose(turn)


def _alpha(image: Image.Image) -> Image.Image:
    """Return the opacity of every pixel."""
    straight = image if image.mode in ("LA", "PA", "RGBA") else image.convert("LA" if image.mode == "La" else "RGBA")
    return straight.getchannel("A")


def _correct_key(image: Image.Image) -> None:
    """Scale a PNG's transparent colour to the levels of its pixels.

    Pillow 13 scales pixels of 2, 4 and 16 bits to 8, and compares them with the colour as stored. Of 16 bits the
    upper 8 remain, so colours that differ in the lower 8 alone become transparent too.
    """
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # present until it is loaded
    kind = str(tiles[0][3]) if tiles else ""
    if kind.startswith("RGB;16") and isinstance(key, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in key)
    elif kind in _DEPTHS and isinstance(key, int):
        image.info["transparency"] = key * _DEPTHS[kind]
