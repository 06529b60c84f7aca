"""What an image file shows: its transparent parts over a background, and the right side up."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image with this value of it the right side up."""
_DEPTHS = {"L;2": 85, "L;4": 17}
"""By what Pillow multiplies the levels of a PNG of few bits; its transparent level it leaves as it is."""


@dataclass(frozen=True)
class Rendering:
    """How pixels are made of what a file holds."""

    background: int | None = 255
    """The grey level, 0 to 255, that shows through transparent parts; None: they have the colour stored in them."""
    upright: bool = True
    """Whether an image is turned as its EXIF orientation says."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """An image just opened, of mode L where it is stored as gray of 8 bits or fewer without alpha, else RGB."""
        flat = flatten(image, self.background)
        return upright(flat, image) if self.upright else flat


USUAL = Rendering()


def flatten(image: Image.Image, background: int | None) -> Image.Image:
    """An image just opened, over a background; an opaque one as it is."""
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
    """`image` turned as the file it was made of says; Pillow has turned a TIFF already."""
    try:
        turn = TURNS.get(source.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF data that cannot be read spoil no pixel
        return image
    return image if turn is None else image.transpose(turn)


def _alpha(image: Image.Image) -> Image.Image:
    """The opacity of every pixel."""
    straight = image if image.mode in ("LA", "PA", "RGBA") else image.convert("LA" if image.mode == "La" else "RGBA")
    return straight.getchannel("A")


def _correct_key(image: Image.Image) -> None:
    """Bring the colour that a PNG calls transparent to the levels that its pixels are read as.

    Pillow 13 brings pixels of 2, 4 and 16 bits to 8, and compares them with the colour as stored. Of 16 bits the
    upper 8 remain, so what differs in the lower 8 alone becomes transparent too.
    """
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # as long as it is not loaded
    kind = str(tiles[0][3]) if tiles else ""
    if kind.startswith("RGB;16") and isinstance(key, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in key)
    elif kind in _DEPTHS and isinstance(key, int):
        image.info["transparency"] = key * _DEPTHS[kind]
