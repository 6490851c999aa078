"""Glyphs: each image shows what its factors say, and held-out images show what training does not."""

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision.glyphs import (
    CHARACTERS,
    CONTRAST,
    FAMILIES,
    HELDOUT_FONTS,
    LUMA,
    MOST_NOISE,
    SIZES,
    SLANTS,
    WEIGHTS,
    GlyphFactors,
    draw_glyphs,
    glyph_factors,
    glyphs,
)

FACTORS = glyph_factors(1500, 400, seed=5)
RNG = np.random.default_rng(0)


def plain(n, **given):
    """Factors of n upright white A on black in the corner, without noise, but for what is given."""
    zeros = np.zeros(n, np.int64)
    factors = GlyphFactors(*[zeros] * 7, ink=np.ones((n, 3)), paper=np.zeros((n, 3)), noise=np.zeros(n))
    return factors._replace(**{name: zeros + value for name, value in given.items()})


def coverage(**given):
    """The masks of some plain letters, (n, 32, 32), 0 … 1."""
    n = max(np.size(value) for value in given.values())
    return draw_glyphs(plain(n, **given), RNG)[:, 0] / 255


def test_the_same_seed_gives_the_same_images_and_another_others():
    first, second, other = glyphs(60, 30, seed=1), glyphs(60, 30, seed=1), glyphs(60, 30, seed=2)
    assert first.fingerprint == second.fingerprint != other.fingerprint
    np.testing.assert_array_equal(first.train.pixels, second.train.pixels)
    assert first.train.pixels.shape == (60, 3, 32, 32)
    assert first.heldout.pixels.shape == (30, 3, 32, 32)
    assert first.train.pixels.dtype == np.uint8
    assert first.classes == tuple(CHARACTERS)
    for part, factors in zip((first.train, first.heldout), glyph_factors(60, 30, seed=1), strict=True):
        np.testing.assert_array_equal(part.labels, factors.character)


def test_without_noise_an_image_is_its_ink_on_its_paper_where_the_factors_say():
    for factors in FACTORS:
        images = draw_glyphs(factors._replace(noise=np.zeros(len(factors.noise))), RNG).transpose(0, 2, 3, 1)
        ink, paper = np.rint(255 * factors.ink), np.rint(255 * factors.paper)
        painted = (images != paper[:, None, None]).any(axis=3)
        strongest = abs(images - paper[:, None, None]).sum(axis=3).reshape(len(images), -1).argmax(axis=1)
        inked = images.reshape(len(images), -1, 3)[np.arange(len(images)), strongest]
        # coverage is full somewhere in most letters, and nearly so in thin small ones
        assert np.mean(abs(inked - ink).max(axis=1) <= 1) > 0.9
        share = np.linalg.norm(inked - paper, axis=1) / np.linalg.norm(ink - paper, axis=1)
        assert share.min() > 0.6
        tops, lefts = painted.any(axis=2).argmax(axis=1), painted.any(axis=1).argmax(axis=1)
        assert np.mean(tops == factors.top) > 0.98  # an edge of a faint letter can round to the paper's colour
        assert np.mean(lefts == factors.left) > 0.98


def test_noise_has_the_standard_deviation_of_its_factor():
    factors = plain(200)._replace(paper=np.full((200, 3), 0.5), ink=np.full((200, 3), 0.5))
    factors = factors._replace(noise=np.linspace(0.01, MOST_NOISE, 200))
    images = draw_glyphs(factors, RNG) / 255
    np.testing.assert_allclose(images.std(axis=(1, 2, 3)), factors.noise, rtol=0.08)


def test_held_out_characters_stand_in_fonts_that_training_does_not_show_them_in():
    pairs = [
        set(zip(*(part[k].tolist() for k in range(4)), strict=True)) for part in glyph_factors(40_000, 20_000, seed=0)
    ]
    fonts = len(FAMILIES) * len(WEIGHTS) * len(SLANTS)
    assert not pairs[0] & pairs[1]
    assert len(pairs[0]) == len(CHARACTERS) * (fonts - HELDOUT_FONTS)
    assert len(pairs[1]) == len(CHARACTERS) * HELDOUT_FONTS


def test_no_two_letters_look_alike():
    """Else a held-out pair of character and font could look as a training one does."""
    shape = (len(CHARACTERS), len(FAMILIES), len(WEIGHTS), len(SLANTS), len(SIZES))
    names = ("character", "family", "weight", "slant", "size")
    everything = dict(zip(names, np.indices(shape).reshape(5, -1), strict=True))
    masks = coverage(**everything)
    assert len({mask.tobytes() for mask in masks}) == len(masks) == np.prod(shape)
    masks = masks.reshape(*shape, 32, 32)
    ink = masks.sum(axis=(-1, -2))
    assert np.all(ink[:, :, 1] > ink[:, :, 0])  # bold
    heights = masks.any(axis=-1).sum(axis=-1)
    assert np.all(np.diff(heights, axis=-1) > 0)  # size
    columns = (masks[..., ::-1].any(axis=-2)).argmax(axis=-1)  # empty ones on the right
    stems = list("HIMN")
    upright, slanted = (columns[[CHARACTERS.index(c) for c in stems], :, :, k] for k in (0, 1))
    assert np.mean(slanted < upright) > 0.9  # slanted is wider


def test_letters_are_the_right_way_up_and_round():
    letters = dict(zip("LPTJ", coverage(character=[CHARACTERS.index(c) for c in "LPTJ"], size=4), strict=True))
    assert letters["L"][12:, :].sum() > 1.3 * letters["L"][:10].sum()
    assert letters["P"][:10].sum() > 1.3 * letters["P"][10:].sum()
    assert letters["T"][:4].sum() > letters["T"][4:].sum() / 2
    box = letters["L"][:19, :12]
    assert box[:, :6].sum() > 1.5 * box[:, 6:].sum()


def test_factors_cover_their_ranges_and_classes_are_equally_frequent():
    for part in FACTORS:
        counts = np.bincount(part.character, minlength=len(CHARACTERS))
        assert counts.max() - counts.min() <= 1
        assert set(part.size.tolist()) == set(range(len(SIZES)))
        assert set(part.family.tolist()) == set(range(len(FAMILIES)))
        assert np.all(abs((part.ink - part.paper) @ LUMA) >= CONTRAST)
        assert part.noise.min() >= 0
        assert 0.9 * MOST_NOISE < part.noise.max() <= MOST_NOISE
        assert part.top.min() == part.left.min() == 0
    train, heldout = glyph_factors(400, 400)
    assert not np.array_equal(train.character, heldout.character)  # drawn on their own


def test_too_few():
    with pytest.raises(InputError, match="25 glyphs: expected 26 or more in each part"):
        glyphs(30, 25)
