"""Pictures are opened as transformers' ``load_image`` opens them, whatever their mode, format and orientation."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from vflowopt.errors import InputError
from vflowopt.files.images import check_image, image_files, open_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (20, 40, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
GRAY16 = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
MODES = {
    "rgb.png": PHOTO,
    "rgba.png": Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])),
    "palette.png": PHOTO.quantize(16),
    "gray.jpg": PHOTO.convert("L"),
    "gray-alpha.png": PHOTO.convert("LA"),
    "bits.png": PHOTO.convert("1"),
    "sixteen.png": GRAY16,
    "sixteen.tif": GRAY16,
    "float.tif": Image.fromarray(PIXELS[..., 0].astype(np.float32)),
    "cmyk.jpg": PHOTO.convert("CMYK"),
    "lab.tif": PHOTO.convert("LAB"),
}


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def same_as_upstream(path):
    load_image = pytest.importorskip("transformers.image_utils").load_image
    found, wanted = open_image(path), load_image(str(path))
    assert (found.mode, found.size) == ("RGB", wanted.size)
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(10))  # 1 to 8 mean something
def test_every_orientation(orientation, suffix, tmp_path):
    path = tmp_path / f"photo.{suffix}"
    PHOTO.save(path, exif=turned(orientation))
    same_as_upstream(path)
    assert open_image(path).size == ((20, 40) if orientation in (5, 6, 7, 8) else (40, 20))


def test_a_phone_held_upright(tmp_path):
    """Orientation 6: what the sensor saw is to be turned by 90 degrees clockwise."""
    PHOTO.save(tmp_path / "photo.png", exif=turned(6))
    assert np.array_equal(np.asarray(open_image(tmp_path / "photo.png")), np.rot90(PIXELS, k=-1))


@pytest.mark.parametrize("name", MODES)
def test_every_mode(name, tmp_path):
    MODES[name].save(tmp_path / name)
    same_as_upstream(tmp_path / name)


def test_transparency_of_a_palette(tmp_path):
    PHOTO.quantize(16).save(tmp_path / "palette.png", transparency=3)
    same_as_upstream(tmp_path / "palette.png")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation(suffix, tmp_path):
    path = tmp_path / f"clip.{suffix}"
    exif = {} if suffix == "gif" else {"exif": turned(6)}
    PHOTO.save(path, save_all=True, append_images=[ImageOps.invert(PHOTO)], **exif)
    same_as_upstream(path)


DAMAGED = {
    "cut short": (lambda raw: raw[:-300], "truncated"),
    "no image": (lambda raw: b"no image", "of a format that Pillow does not know; save it as PNG or JPEG"),
    "nothing": (lambda raw: b"", "of a format that Pillow does not know"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named(damage, said, tmp_path):
    path = tmp_path / "photo.jpg"
    PHOTO.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"cannot read the image '.*photo\.jpg': .*{said}"):
        open_image(path)


@pytest.mark.parametrize("error", [IndexError("index out of range"), TypeError("Missing dimensions"), struct.error()])
def test_whatever_a_decoder_raises_is_bad_input(error, tmp_path, monkeypatch):
    """Pillow's decoders raise all of these, and more, on files with a few wrong bytes."""

    def fail(path):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    for read in (open_image, check_image):
        with pytest.raises(InputError, match=rf"cannot read the image '.*photo\.jpg': {error or 'error'}"):
            read(tmp_path / "photo.jpg")


@pytest.mark.parametrize("name", ["missing.png", "x" * 300 + ".png", "nul\0.png", "."])
def test_what_is_no_file_is_named(name, tmp_path):
    for read in (open_image, check_image):
        with pytest.raises(InputError, match="cannot read the image"):
            read(tmp_path / name)


def test_hidden_files_beside_images_are_no_images(tmp_path):
    for name in ("b.PNG", "a.jpeg"):
        PHOTO.save(tmp_path / name)
    for name in ("._a.jpeg", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "folder.png").mkdir()
    assert sorted(path.name for path in image_files(tmp_path)) == ["a.jpeg", "b.PNG"]
