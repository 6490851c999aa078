"""Folders and archives of PNG and JPEG files: which is which class, and one line for whatever is wrong."""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision import load_images

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")

SHARED = Path(os.environ.get("MINISSL_DATA", "")) / "images/cifar10-jpeg/cifar10_train_20000.tar.gz"


def pixels(seed=0, height=6, width=5, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width)).astype(np.uint8)


def encoded(array, kind="PNG", **options):
    """An image (C, H, W) as the bytes of a file."""
    out = io.BytesIO()
    array = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


def picture(mode, kind="PNG", **options):
    """An image that Pillow has turned into another mode, as the bytes of a file."""
    out = io.BytesIO()
    Image.fromarray(pixels().transpose(1, 2, 0)).convert(mode).save(out, kind, **options)
    return out.getvalue()


CMYK = picture("CMYK", "JPEG")


SET = {f"{label}/{i}.png": encoded(pixels(10 * k + i)) for k, label in enumerate(("cat", "dog")) for i in range(5)}


def write_folder(folder, files):
    """Files by name, as bytes; None makes an empty folder."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def write_tar(path, files, listed=False):
    """The same as an archive, with the folders themselves listed or not."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        names = {str(parent) for name in files for parent in Path(name).parents} if listed else set()
        for name in sorted(names | {name for name, content in files.items() if content is None}):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        for name, content in files.items():
            if content is not None:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


MAKERS = {
    "folder": lambda tmp_path, files: write_folder(tmp_path / "pets", files),
    "tar": lambda tmp_path, files: write_tar(tmp_path / "pets.tar", files),
    "tar with folders": lambda tmp_path, files: write_tar(tmp_path / "pets.tar.gz", files, listed=True),
}


@pytest.fixture(params=MAKERS)
def load(request, tmp_path):
    """Write the files as a folder or as an archive, and load them."""

    def load_them(files, image_size=None):
        return load_images(str(MAKERS[request.param](tmp_path, files)), image_size)

    return load_them


def below(top, files):
    return {f"{top}/{name}": content for name, content in files.items()}


def test_a_folder_for_each_class(load):
    parts = load({**SET, "cat/.DS_Store": b"x", ".git/HEAD": b"x", "README": b"about", "labels.csv": b"x"})
    assert parts.name == "pets"
    assert parts.classes == ("cat", "dog")
    assert np.bincount(parts.train.labels).tolist() == [4, 4]
    assert np.bincount(parts.heldout.labels).tolist() == [1, 1]
    found = {image.tobytes(): label for part in parts[2:4] for image, label in zip(*part, strict=True)}
    assert found == {pixels(10 * k + i).tobytes(): k for k in (0, 1) for i in range(5)}


@pytest.mark.parametrize("heldout", ["test", "val", "heldout"])
def test_parts_of_its_own(load, heldout):
    test = {"dog/1.png": encoded(pixels(50)), "cat/2.png": encoded(pixels(51))}
    parts = load({**below("all/train", SET), **below(f"all/{heldout}", test), "all/LICENSE": b""})
    assert len(parts.train.pixels) == 10
    np.testing.assert_array_equal(parts.heldout.pixels, [pixels(51), pixels(50)])
    assert parts.heldout.labels.tolist() == [0, 1]


def test_of_several_parts_one_is_held_out(load):
    val, test = {"dog/1.png": encoded(pixels(50))}, {"cow/1.png": b"not read"}
    parts = load({**below("train", SET), **below("val", val), **below("test", test)})
    assert parts.heldout.labels.tolist() == [1]
    assert len(parts.heldout.pixels) == 1


def test_folders_around_do_not_matter_and_order_is_by_name(load):
    files = {
        f"{k}/{i}.jpeg": encoded(np.full((1, 8, 8), 9 * k + int(i), np.uint8), "JPEG") for k in (10, 9, 2) for i in "12"
    }
    parts = load(below("./some/where", files))
    assert parts.classes == ("2", "9", "10")
    assert parts.train.labels.tolist() == [0, 1, 2]
    assert parts.train.pixels.shape == (3, 1, 8, 8)


def test_images_without_class_folders_have_no_labels(load):
    parts = load({f"{i:02}.PNG": encoded(pixels(i)) for i in range(10)})
    assert parts.classes == ()
    assert parts.train.labels is None
    assert parts.heldout.labels is None
    assert (len(parts.train.pixels), len(parts.heldout.pixels)) == (8, 2)


@pytest.mark.parametrize(
    ("files", "image", "says"),
    [
        ({}, "", "no images; expected PNG or JPEG files, in a folder for each class"),
        ({"README": b"x"}, "", "no images"),
        ({**SET, "cow": None}, "", "no image of class cow: the folder is empty"),
        ({**SET, "cow/.hidden.png": b"x", "cow": None}, "", "no image of class cow"),
        ({**SET, "cat/notes.txt": b"x"}, "cat/notes.txt", "not PNG or JPEG by its name, in the folder of a class"),
        ({**SET, "cat/more/1.png": b"x"}, "cat/more/1.png", "stands too deep; expected CLASS/IMAGE"),
        ({**SET, "1.png": b"x"}, "1.png", "stands beside the class folder cat"),
        ({**below("train", SET), "cow/1.png": b"x"}, "cow", "stands beside train; is it a class?"),
        ({**below("train", SET), "1.png": b"x"}, "1.png", "stands beside train"),
        ({**below("train", SET), "test": None}, "", "test: no images"),
        ({**below("train", SET), "test/cow/1.png": b"x"}, "", "test has the classes cow, train has cat, dog"),
        ({**below("train", SET), "test/1.png": b"x"}, "", "test has the classes none .*, train has cat, dog"),
        (
            {**SET, "dog/9.png": encoded(pixels(height=7))},
            "dog/9.png",
            "7 × 5 pixels, but .*cat/0.png has 6 × 5; crop.*--im",
        ),
        (
            {**SET, "dog/9.png": encoded(pixels(channels=1))},
            "dog/9.png",
            "grey, but .*cat/0.png is colour; save all in",
        ),
        ({**SET, "cat/.0.png": b"", "cat/00.png": encoded(pixels(channels=1))}, "cat/00.png", "is colour|grey, but"),
        ({**SET, "dog/9.png": b""}, "dog/9.png", "not a PNG or JPEG file, or damaged at its beginning"),
        ({**SET, "dog/9.png": b"GIF89a" + bytes(50)}, "dog/9.png", "not a PNG or JPEG file"),
        ({**SET, "dog/9.png": SET["cat/0.png"][:-30]}, "dog/9.png", "damaged or cut short"),
        ({**SET, "dog/9.jpg": encoded(pixels(0, 50, 50), "JPEG")[:-200]}, "dog/9.jpg", "damaged or cut short"),
        ({**SET, "dog/9.png": picture("I;16")}, "dog/9.png", "mode I;16; save it with 8 bits"),
        ({**SET, "dog/9.jpg": CMYK}, "dog/9.jpg", "mode CMYK; save it with 8 bits, in grey or RGB"),
        (
            {**SET, "dog/9.png": encoded(pixels(channels=4))},
            "dog/9.png",
            "has transparent pixels; save it on a background",
        ),
        ({**SET, "dog/9.png": picture("P", transparency=bytes(256))}, "dog/9.png", "has transparent pixels"),
        ({"cat/1.png": SET["cat/1.png"], "dog/1.png": SET["cat/2.png"]}, "", r"1 image\(s\) of class 'cat'; two"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(load, files, image, says):
    with pytest.raises(InputError, match=says) as caught:
        load(files)
    assert "pets" in str(caught.value)
    assert image in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_that_lose_nothing_are_grey_or_colour(tmp_path, mode):
    files = {f"a/{i}.png": picture(mode) for i in range(2)}
    parts = load_images(str(write_folder(tmp_path, files)))
    image = Image.open(io.BytesIO(files["a/0.png"])).convert("L" if mode in ("1", "L", "LA") else "RGB")
    expected = np.asarray(image)
    np.testing.assert_array_equal(
        parts.train.pixels[0], expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    )


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_are_cropped_to_the_middle_square_and_resized(tmp_path, kind, turns):
    wide = np.zeros((3, 40, 80), np.uint8)
    wide[:, :, 15:65] = 200  # a little more than the middle square, over whose edge a resized pixel looks
    wide[0, :20] //= 2  # red: darker above
    expected = np.full((3, 10, 10), 200)
    expected[0, :5] = 100
    file = encoded(np.rot90(wide, turns, axes=(1, 2)), kind)
    parts = load_images(str(write_folder(tmp_path / "a", {"a/1.png": file, "a/2.png": file})), image_size=10)
    for part in parts.train, parts.heldout:
        assert part.pixels.shape == (1, 3, 10, 10)
        assert abs(part.pixels[0] - np.rot90(expected, turns, axes=(1, 2))).max() < 15  # at the edge


def test_a_camera_s_turn_is_made(tmp_path):
    image = Image.fromarray(pixels().transpose(1, 2, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top row stands on the right: a quarter turn clockwise
    out = io.BytesIO()
    image.save(out, "PNG", exif=exif)
    parts = load_images(str(write_folder(tmp_path, {"a/1.png": out.getvalue(), "a/2.png": out.getvalue()})))
    np.testing.assert_array_equal(parts.train.pixels[0], np.rot90(pixels(), -1, axes=(1, 2)))


def test_bombs(tmp_path, monkeypatch):
    folder = str(write_folder(tmp_path, {f"a/{i}.png": encoded(pixels(0, 30, 30)) for i in range(5)}))
    for most in (100, 500, 899):  # Pillow raises over twice its limit, and warns below
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(InputError, match=rf"a/0.png: more than {most} pixels; make it smaller"):
            load_images(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    monkeypatch.setattr("minissl.vision.folders.MOST_BYTES", 5 * 2700 - 1)
    with pytest.raises(InputError, match=r"5 images of 3 × 30 × 30 bytes need more memory .*--image-size"):
        load_images(folder)


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InputError, match=r"need Pillow; install the extra: pip install 'minissl\[data\]'"):
        load_images(str(write_folder(tmp_path, SET)))


def test_links_pipes_and_strange_names_in_folders(tmp_path):
    folder = write_folder(tmp_path / "a", SET)
    (folder / "cat/5.png").symlink_to(folder / "cat/1.png")  # a file by a link is a file
    assert len(load_images(str(folder)).train.pixels) == 4 + 5
    (folder / "cat/5.png").unlink()
    (folder / "cat/5.png").symlink_to("5.png")
    with pytest.raises(InputError, match=r"5\.png: .*(symbolic links|no such file)"):
        load_images(str(folder))
    (folder / "cat/5.png").unlink()
    os.mkfifo(folder / "cat/5.png")
    with pytest.raises(InputError, match=r"5\.png: is not a file"):
        load_images(str(folder))
    (folder / "cat/5.png").unlink()
    (folder / "cow").symlink_to("..")
    with pytest.raises(InputError, match="cow: a link to a folder"):
        load_images(str(folder))
    (folder / "cow").unlink()
    (folder / "cat/at 3\u202fp.m.png").write_bytes(SET["cat/1.png"])  # as macOS names what it takes
    assert len(load_images(str(folder)).train.pixels) == 4 + 5
    (folder / "cat/b\nc.png").touch()
    with pytest.raises(InputError, match=r"control characters, or not in UTF-8: 'cat/b.nc\.png'; rename it"):
        load_images(str(folder))
    write_folder(tmp_path, {"deep" + "/a" * 20 + "/1.png": b""})
    with pytest.raises(InputError, match="stands too deep"):
        load_images(str(tmp_path / "deep"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_archives_hold_files_and_folders_alone(tmp_path, kind):
    path = write_tar(tmp_path / "a.tar", SET)
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("cat/9.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(InputError, match=r"a\.tar: 'cat/9\.png' is a link, a device or has holes"):
        load_images(str(path))


def test_archives_lead_nowhere_else(tmp_path):
    path = write_tar(tmp_path / "a.tar", {**SET, "../cat/9.png": b"x"})
    with pytest.raises(InputError, match=r"'\.\./cat/9\.png' leads out of the archive"):
        load_images(str(path))


def test_archives_that_are_none_or_cut_short(tmp_path):
    path = write_tar(tmp_path / "a.tar", SET)
    whole = path.read_bytes()
    blocks = [512 * k for k in range(1, 20)]
    for length in (0, 1, 511, *blocks, 5000):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.tar: (not a tar archive|the archive is cut short)"):
            load_images(str(path))
    header = bytearray(whole)
    header[1024 + 3] ^= 1  # of the second file: its check sum is wrong, and tarfile would just stop
    path.write_bytes(header)
    with pytest.raises(InputError, match="cut short or damaged at byte 1,024"):
        load_images(str(path))
    path.write_bytes(gzip.compress(whole)[:-100])
    with pytest.raises(InputError, match="gzip file is cut short"):
        load_images(str(path))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "tar"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, kind):
    """Bytes flipped, cut out, doubled: no other exception, and what is read is whole."""
    rng = np.random.default_rng(0)
    files = {f"a/{i}.png": encoded(pixels(i, 12, 12), "PNG" if kind == "tar" else kind) for i in range(3)}
    folder = write_folder(tmp_path / "set", files)
    archive = write_tar(tmp_path / "set.tar", files)
    path = archive if kind == "tar" else folder / "a/1.png"
    whole = path.read_bytes()
    read, refusals = 0, []
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at, what = int(rng.integers(len(data))), rng.integers(3)
            if what == 0:
                data[at] = rng.integers(256)
            elif what == 1:
                del data[at : at + int(rng.integers(1, 40))]
            else:
                data[at:at] = data[at : at + 30]
        path.write_bytes(data)
        try:
            parts = load_images(str(archive if kind == "tar" else folder))
        except InputError as error:
            refusals.append(str(error))
        else:
            assert len(parts.train.pixels) + len(parts.heldout.pixels) <= 3
            assert parts.train.pixels.shape[1:] == (3, 12, 12)
            read += 1
    assert read > 0
    assert len(refusals) > 50
    assert not any("\n" in said for said in refusals)


@pytest.mark.skipif(not SHARED.is_file(), reason="MINISSL_DATA has no images/cifar10-jpeg")
def test_a_real_archive():
    parts = load_images(str(SHARED))
    assert parts.classes[:3] == ("airplane", "automobile", "bird")
    assert parts.train.pixels.shape == (16_000, 3, 32, 32)
    assert np.bincount(parts.heldout.labels).tolist() == [400] * 10
