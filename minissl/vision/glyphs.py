"""`glyphs`: capital letters that Matplotlib draws from its own fonts, with everything about each image known.

The class is the character. Of the 416 pairs of a character and a font, three fonts of each character are held out:
held-out images show it in a font in which training never does, so none of them can repeat a training image. The same
seed gives the same images; another version of Matplotlib may bring a FreeType that draws edges a little differently.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.vision.images import ImageParts, Images

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FAMILIES = ("DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif", "STIX")
WEIGHTS = ("regular", "bold")
SLANTS = ("upright", "slanted")
SIZES = (14, 17, 20, 23, 26)  # pixels an em; a capital letter is about 0.7 em high
FILES = (
    ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique"),
    ("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    ("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
    ("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
)
FONTS = len(FAMILIES) * len(WEIGHTS) * len(SLANTS)
HELDOUT_FONTS = 3  # of each character
SIDE = 32  # pixels of an image, both ways
CONTRAST = 0.4  # between the brightness of ink and paper at least, of 1
MOST_NOISE = 0.15  # standard deviation of the noise at most, of 1
LUMA = np.array([0.299, 0.587, 0.114])  # how bright red, green and blue look (ITU-R BT.601)
CHUNK = 1024  # images drawn together, which bounds the memory


class GlyphFactors(NamedTuple):
    """What each of n images shows: numbers of CHARACTERS, FAMILIES, …; pixels; colours and noise as shares of white."""

    character: Array  # (n,)
    family: Array  # (n,)
    weight: Array  # (n,)
    slant: Array  # (n,)
    size: Array  # (n,) of SIZES
    top: Array  # (n,) the first row of the image that has ink
    left: Array  # (n,) the first column that has ink
    ink: Array  # (n, 3) red, green, blue
    paper: Array  # (n, 3)
    noise: Array  # (n,) its standard deviation


def glyphs(n_train: int = 20_000, n_heldout: int = 4_000, seed: int = 0) -> ImageParts:
    """Images (n, 3, 32, 32) of capital letters, all classes equally often; `glyph_factors` says what each one shows.

    pixel = paper + coverage · (ink - paper) + noise · N(0, 1), cut off at black and white.
    Raises InputError for fewer images than classes in a part.
    """
    parts = []
    for number, factors in enumerate(glyph_factors(n_train, n_heldout, seed)):
        pixels = draw_glyphs(factors, np.random.default_rng([seed, number, 1]))
        parts.append(Images(pixels, factors.character))
    return ImageParts.of("glyphs", tuple(CHARACTERS), *parts)


def glyph_factors(n_train: int = 20_000, n_heldout: int = 4_000, seed: int = 0) -> tuple[GlyphFactors, GlyphFactors]:
    """The factors of the images that `glyphs` draws for the same arguments, in the same order: training, held out."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(FONTS), (len(CHARACTERS), 1)), axis=1)
    masks = _masks()
    return (
        _draw_factors(n_train, order[:, HELDOUT_FONTS:], masks, np.random.default_rng([seed, 0])),
        _draw_factors(n_heldout, order[:, :HELDOUT_FONTS], masks, np.random.default_rng([seed, 1])),
    )


def draw_glyphs(factors: GlyphFactors, rng: np.random.Generator) -> Array:
    """The images (n, 3, 32, 32) with these factors, in bytes; `rng` draws the noise."""
    masks = _masks()
    border = SIDE - 1  # the letter stands at the corner of its mask; moving the window by it moves the letter
    canvas = np.pad(masks.coverage, ((0, 0), (border, 0), (border, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(canvas, (SIDE, SIDE), axis=(1, 2))
    which = _number(*factors[:5])
    pixels = np.empty((len(which), 3, SIDE, SIDE), np.uint8)
    for start in range(0, len(which), CHUNK):
        part = slice(start, start + CHUNK)
        coverage = windows[which[part], border - factors.top[part], border - factors.left[part], None]  # (n, 1, 32, 32)
        ink, paper = (colour[part, :, None, None].astype(np.float32) for colour in (factors.ink, factors.paper))
        values = rng.standard_normal((len(coverage), 3, SIDE, SIDE), dtype=np.float32)
        values *= factors.noise[part, None, None, None].astype(np.float32)
        values += paper + coverage * (ink - paper)
        pixels[part] = np.rint(255 * values.clip(0, 1))
    return pixels


def _draw_factors(n: int, fonts: Array, masks: _Masks, rng: np.random.Generator) -> GlyphFactors:
    """Draw n factors; `fonts` (characters, …) are those that each character may have."""
    if n < len(CHARACTERS):
        raise InputError(f"{n} glyphs: expected {len(CHARACTERS)} or more in each part, one of each class")
    character = rng.permutation(np.arange(n) % len(CHARACTERS))
    font = fonts[character, rng.integers(fonts.shape[1], size=n)]
    family, weight, slant = np.unravel_index(font, (len(FAMILIES), len(WEIGHTS), len(SLANTS)))
    size = rng.integers(len(SIZES), size=n)
    which = _number(character, family, weight, slant, size)
    top = rng.integers(SIDE - masks.height[which] + 1)
    left = rng.integers(SIDE - masks.width[which] + 1)
    colours = np.zeros((n, 2, 3))
    todo = np.arange(n)
    while len(todo):  # drawn again where ink and paper are too much alike
        colours[todo] = rng.random((len(todo), 2, 3))
        brightness = colours[todo] @ LUMA
        todo = todo[abs(brightness[:, 0] - brightness[:, 1]) < CONTRAST]
    noise = rng.random(n) * MOST_NOISE
    return GlyphFactors(character, family, weight, slant, size, top, left, colours[:, 0], colours[:, 1], noise)


class _Masks(NamedTuple):
    """Every character in every font and size: how much of each pixel it covers, and the extent of its ink."""

    coverage: Array  # (masks, 32, 32) float32, 0 … 1, the ink in the top left corner
    height: Array  # (masks,)
    width: Array  # (masks,)


def _number(character: Array, family: Array, weight: Array, slant: Array, size: Array) -> Array:
    """The number of each image's mask, in the order in which `_masks` draws them."""
    shape = (len(FAMILIES), len(WEIGHTS), len(SLANTS), len(SIZES), len(CHARACTERS))
    number: Array = np.ravel_multi_index((family, weight, slant, size, character), shape)
    return number


@cache  # 2,080 letters; a tenth of a second
def _masks() -> _Masks:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    letters = []
    for name in (name for family in FILES for name in family):
        font = FT2Font(str(folder / f"{name}.ttf"))
        for size in SIZES:
            font.set_size(size, 72)  # at 72 dots an inch a point is a pixel
            for character in CHARACTERS:
                font.set_text(character, 0.0)
                font.draw_glyphs_to_bitmap(antialiased=True)
                image = np.asarray(font.get_image())
                rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
                letters.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    coverage = np.zeros((len(letters), SIDE, SIDE), np.float32)
    for mask, letter in zip(coverage, letters, strict=True):
        mask[: letter.shape[0], : letter.shape[1]] = letter / np.float32(255)
    height, width = np.array([letter.shape for letter in letters]).T
    return _Masks(coverage, height, width)
