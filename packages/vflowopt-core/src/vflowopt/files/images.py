"""Pictures on disk, opened as transformers' ``load_image`` opens them: turned upright, and as RGB."""

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from vflowopt.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def upright(image: Image.Image) -> Image.Image:
    """The image as RGB, turned and mirrored as its EXIF orientation says; phones save what the sensor saw, and that."""
    return ImageOps.exif_transpose(image).convert("RGB")


def open_image(path: Path) -> Image.Image:
    """Read an image file, upright and as RGB.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise unreadable("image", path, error) from error


def check_image(path: Path) -> None:
    """Fail on a file that is no image before any work is done; decodes nothing.

    Raises:
        InputError: it is none, or it cannot be read.
    """
    try:
        with Image.open(path):
            pass
    except Exception as error:  # as above
        raise unreadable("image", path, error) from error


def image_files(directory: Path) -> list[Path]:
    """Images in a directory by their suffix, in no order; hidden files, such as macOS' ``._photo.jpg``, are none.

    Raises:
        OSError: the directory cannot be listed.
    """
    return [
        path
        for path in directory.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def unreadable(kind: str, path: Path, error: Exception) -> InputError:
    """What to raise for an image or video that cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        reason = "it is damaged, or of a format that Pillow does not know; save it as PNG or JPEG"
    else:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = f"{reason}; name a file that can be opened"
    return InputError(f"cannot read the {kind} {str(path)!r}: {reason}")
