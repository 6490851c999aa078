import numpy as np
import pytest

from minissl.errors import InputError

B, C, P, h, w, D = 2, 3, 4, 2, 5, 6
H, W, N = h * P, w * P, h * w


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def by_loops(images, order):
    """Patches of images (B, C, H, W), each pixel put into its place by its own indices."""
    patches = np.zeros((B, N, P * P * C))
    for b, c, i, j in np.ndindex(images.shape):
        row, column = i % P, j % P
        place = (row * P + column) * C + c if order == "channels last" else (c * P + row) * P + column
        patches[b, (i // P) * w + j // P, place] = images[b, c, i, j]
    return patches


def test_patchify_puts_every_pixel_into_its_place(patchify):
    images = random(0, B, C, H, W)
    patches, cache = patchify.forward(images, P)
    np.testing.assert_array_equal(patches, by_loops(images, "channels last"))
    np.testing.assert_array_equal(patchify.backward(patches, cache), images)
    np.testing.assert_array_equal(patchify.forward(images[1], P)[0], patches[1])


def test_unpatchify_is_the_inverse_of_patchify(unpatchify):
    images = random(1, B, C, H, W)
    patches = by_loops(images, "channels last")
    joined, cache = unpatchify.forward(patches, P, (H, W))
    np.testing.assert_array_equal(joined, images)
    np.testing.assert_array_equal(unpatchify.backward(images, cache), patches)


def test_pixel_shuffle_takes_the_channels_first(pixel_shuffle):
    images = random(2, B, C, H, W)
    x = by_loops(images, "channels first")
    joined, cache = pixel_shuffle.forward(x, P, (H, W))
    np.testing.assert_array_equal(joined, images)
    np.testing.assert_array_equal(pixel_shuffle.backward(images, cache), x)


def test_patchify_refuses_images_that_do_not_divide(patchify):
    for size in ((H + 1, W), (H, W - 1), (0, W), (P - 1, W)):
        with pytest.raises(InputError, match=f"images of {size[0]} × {size[1]} pixels do not divide into patches of 4"):
            patchify.forward(np.zeros((C, *size)), P)


def refuses_other_patches(op):
    for shape in ((B, N - 1, P * P * C), (B, N, P * P * C + 1)):
        with pytest.raises(InputError, match=f"{shape[1]} patches of {shape[2]} numbers given, expected 10 of a mult"):
            op.forward(np.zeros(shape), P, (H, W))


def test_unpatchify_refuses_patches_of_other_images(unpatchify):
    refuses_other_patches(unpatchify)


def test_pixel_shuffle_refuses_patches_of_other_images(pixel_shuffle):
    refuses_other_patches(pixel_shuffle)


def test_patch_embedding_is_a_convolution_with_the_stride_of_its_kernel(patch_embedding):
    images, weight, bias, dy = random(3, B, C, H, W), random(4, D, C, P, P), random(5, D), random(6, B, N, D)
    y, cache = patch_embedding.forward(images, weight, bias)
    dimages, dweight, dbias = patch_embedding.backward(dy, cache)
    assert y.shape == (B, N, D)
    expected = np.zeros_like(weight)
    for b, n in np.ndindex(B, N):
        rows, columns = (slice(P * k, P * k + P) for k in divmod(n, w))
        window = images[b, :, rows, columns]
        np.testing.assert_allclose(y[b, n], (weight * window).sum(axis=(1, 2, 3)) + bias, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(dimages[b, :, rows, columns], np.tensordot(dy[b, n], weight, 1), rtol=1e-11)
        expected += dy[b, n][:, None, None, None] * window
    np.testing.assert_allclose(dweight, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(dbias, dy.sum(axis=(0, 1)), rtol=1e-12)


def test_patch_embedding_refuses_grey_images_where_it_has_colours(patch_embedding):
    with pytest.raises(InputError, match=r"images of 1 channel\(s\) given, the weight has 3"):
        patch_embedding.forward(np.zeros((B, 1, H, W)), np.zeros((D, C, P, P)), np.zeros(D))


def test_gather_patches_takes_each_row_its_own(gather_patches):
    x, ids = random(7, 3, 5, D), np.array([[4, 0], [1, 2], [2, 1]])
    y, cache = gather_patches.forward(x, ids)
    np.testing.assert_array_equal(y, [x[0][[4, 0]], x[1][[1, 2]], x[2][[2, 1]]])
    dx = gather_patches.backward(y, cache)
    taken = np.zeros((3, 5, 1))
    for row, chosen in enumerate(ids):
        taken[row, chosen] = 1
    np.testing.assert_array_equal(dx, x * taken)


def test_gather_patches_refuses_what_is_not_there_and_what_is_there_twice(gather_patches):
    x = random(8, 2, 5, D)
    for bad in (5, -1):
        with pytest.raises(InputError, match=f"{bad} is outside 0 … 4; are they those of another image size"):
            gather_patches.forward(x, np.array([[0, 1], [2, bad]]))
    with pytest.raises(InputError, match="one is twice in a row"):
        gather_patches.forward(x, np.array([[0, 1, 2], [3, 1, 3]]))


def test_restore_patches_undoes_the_shuffle(restore_patches):
    x, token = random(9, 3, 5, D), random(10, D)
    shuffle = np.argsort(np.random.default_rng(11).random((3, 5)), axis=1)
    restore = np.argsort(shuffle, axis=1)
    visible = np.take_along_axis(x, shuffle[:, :2, None], axis=1)
    y, cache = restore_patches.forward(visible, token, restore)
    dy = random(12, 3, 5, D)
    dvisible, dtoken = restore_patches.backward(dy, cache)
    expected = np.zeros(D)
    for b, n in np.ndindex(3, 5):
        place = list(shuffle[b]).index(n)
        np.testing.assert_array_equal(y[b, n], x[b, n] if place < 2 else token)
        if place < 2:
            np.testing.assert_array_equal(dvisible[b, place], dy[b, n])
        else:
            expected += dy[b, n]
    np.testing.assert_allclose(dtoken, expected, rtol=1e-12)


def test_restore_patches_refuses_ids_that_are_no_permutation(restore_patches):
    with pytest.raises(InputError, match="one is twice in a row"):
        restore_patches.forward(np.zeros((1, 2, D)), np.zeros(D), np.array([[0, 1, 1, 3]]))
    with pytest.raises(InputError, match="4 is outside 0 … 3"):
        restore_patches.forward(np.zeros((1, 2, D)), np.zeros(D), np.array([[0, 1, 4, 3]]))


def test_mask_patches_puts_the_token_over_the_hidden_ones(mask_patches):
    x, token = random(13, 2, 5, D), random(14, D)
    mask = np.array([[True, False, False, True, True], [False] * 4 + [True]])
    y, cache = mask_patches.forward(x, token, mask)
    dy = random(15, 2, 5, D)
    dx, dtoken = mask_patches.backward(dy, cache)
    for b, n in np.ndindex(2, 5):
        np.testing.assert_array_equal(y[b, n], token if mask[b, n] else x[b, n])
        np.testing.assert_array_equal(dx[b, n], 0 * dy[b, n] if mask[b, n] else dy[b, n])
    np.testing.assert_allclose(dtoken, dy[mask].sum(axis=0), rtol=1e-12)


def test_normalise_patches_has_the_unbiased_variance(normalise_patches):
    patches = 3 + 2 * random(16, 2, 5, 7)
    y, _ = normalise_patches.forward(patches, 1e-3)
    for b, n in np.ndindex(2, 5):
        x = patches[b, n]
        np.testing.assert_allclose(y[b, n], (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-3), rtol=1e-12)
    with pytest.raises(InputError, match="a patch of one number has no variance"):
        normalise_patches.forward(patches[..., :1])
