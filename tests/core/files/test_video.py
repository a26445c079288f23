"""Videos in every form on disk: which frames are taken, and what is refused with which words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vflowopt.errors import InputError
from vflowopt.files.video import evenly, open_video

LEVELS = [11 * number for number in range(12)]  # a frame is known by its gray level, also after a palette's detour


def frame(level):
    return Image.new("RGB", (12, 8), (level,) * 3)


def levels(clip):
    assert {(image.mode, image.size) for image in clip} == {("RGB", (12, 8))}
    return [image.getpixel((5, 5))[0] for image in clip]


def write_directory(path):
    path.mkdir()
    for number, level in enumerate(LEVELS):
        frame(level).save(path / f"frame{number}.png")  # 10 and 11 come last, not after 1
    (path / "notes.txt").write_text("no frame")


def write_animation(path):
    first, *rest = map(frame, LEVELS)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=40, **lossless)


def write_array(path):
    np.save(path, np.stack([np.asarray(frame(level)) for level in LEVELS]))


WRITERS = {
    "frames": write_directory,
    "clip.gif": write_animation,
    "clip.webp": write_animation,
    "clip.png": write_animation,
    "clip.npy": write_array,
}


@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_every_form_gives_the_same_frames(name, write, tmp_path):
    write(tmp_path / name)
    video = open_video(tmp_path / name)
    assert video.total == len(LEVELS)
    assert levels(video.sample(32)) == LEVELS
    assert levels(video.sample(4)) == [LEVELS[index] for index in (0, 4, 7, 11)]
    assert levels(video.sample(1)) == LEVELS[:1]


def test_coded_videos_are_decoded_by_pyav(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 32
        for level in LEVELS:
            picture = av.VideoFrame.from_image(Image.new("RGB", (64, 32), (level,) * 3))
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    video = open_video(path)
    assert video.total == len(LEVELS)
    found = [clip.getpixel((5, 5))[0] for clip in video.sample(4)]
    assert np.abs(np.array(found) - [LEVELS[index] for index in (0, 4, 7, 11)]).max() <= 4
    path.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"cannot read .*clip\.mp4"):
        open_video(path)


def test_videos_of_phones_are_turned_as_players_do(tmp_path):
    """The display matrix in the file's track header says by how much; encoders write the identity."""
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    left_half = np.zeros((32, 64, 3), np.uint8)
    left_half[:, :32] = 200
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 32
        container.mux(stream.encode(av.VideoFrame.from_ndarray(left_half, format="rgb24")))
        container.mux(stream.encode(None))
    one, whole = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    minus, zero = (-1 << 16).to_bytes(4, "big", signed=True), bytes(4)
    raw = path.read_bytes()
    track = raw.index(b"tkhd")
    upright = one + 3 * zero + one + 3 * zero + whole
    clockwise = zero + one + zero + minus + 4 * zero + whole
    path.write_bytes(raw[:track] + raw[track:].replace(upright, clockwise, 1))
    (frame,) = open_video(path).sample(1)
    assert frame.size == (32, 64)
    assert (frame.getpixel((16, 10))[0] > 150, frame.getpixel((16, 54))[0] > 150) == (True, False)


def test_frames_that_a_camera_saved_lying(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    (tmp_path / "frames").mkdir()
    for number in range(3):
        frame(10 * number).save(tmp_path / "frames" / f"{number}.jpg", exif=exif)
        (tmp_path / "frames" / f"._{number}.jpg").write_bytes(b"beside an image, of a file system without forks")
    frame(0).save(tmp_path / "clip.webp", save_all=True, append_images=[frame(90), frame(180)], exif=exif)
    for name in ("frames", "clip.webp"):
        assert [image.size for image in open_video(tmp_path / name).sample(8)] == [(8, 12)] * 3


def test_coded_videos_name_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"clip.mp4' needs PyAV: pip install 'vflowopt-core\[video\]'; or give a direc"
    ):
        open_video(tmp_path / "clip.mp4")


@given(total=st.integers(1, 300), count=st.integers(1, 64))
def test_frames_are_evenly_spaced(total, count):
    chosen = evenly(total, count)
    assert len(chosen) == min(total, count)
    assert chosen[0] == 0
    assert chosen[-1] == (total - 1 if len(chosen) > 1 else 0)
    steps = set(np.diff(chosen).tolist())
    assert len(chosen) == 1 or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


def damaged_gif(path):
    write_animation(path)
    path.write_bytes(path.read_bytes()[:20])


def unequal_frames(path):
    write_directory(path)
    Image.new("RGB", (9, 9)).save(path / "frame3.png")


def damaged_frame(path):
    write_directory(path)
    (path / "frame5.png").write_bytes(b"no image")


REFUSED = {
    "x" * 300: (lambda path: None, "neither a file nor a directory"),
    "missing": (lambda path: None, "neither a file nor a directory"),
    "empty": (lambda path: path.mkdir(), "no frames: no images"),
    "unequal": (unequal_frames, r"must have one size, .*\(9, 9\)"),
    "damaged": (damaged_frame, r"cannot read .*frame5\.png"),
    "damaged.gif": (damaged_gif, r"cannot read .*damaged\.gif"),
    "nonsense.gif": (lambda path: path.write_bytes(b"nonsense"), r"cannot read .*nonsense\.gif"),
    "still.png": (lambda path: frame(3).save(path), "a single picture, not a video: give it with --image"),
    "nonsense.npy": (lambda path: path.write_bytes(b"nonsense"), r"cannot read .*nonsense\.npy"),
    "float.npy": (
        lambda path: np.save(path, np.zeros((2, 4, 4, 3))),
        r"must hold uint8 .*, not float64 \[2, 4, 4, 3\]",
    ),
    "gray.npy": (lambda path: np.save(path, np.zeros((2, 4, 4), np.uint8)), r"not uint8 \[2, 4, 4\]"),
    "none.npy": (lambda path: np.save(path, np.zeros((0, 4, 4, 3), np.uint8)), r"not uint8 \[0, 4, 4, 3\]"),
    "objects.npy": (lambda path: np.save(path, np.array([{}])), r"cannot read .*objects\.npy"),
}


@pytest.mark.parametrize(("name", "case"), REFUSED.items(), ids=REFUSED)
def test_what_is_no_video_is_refused_by_name(name, case, tmp_path):
    write, message = case
    write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        open_video(tmp_path / name).sample(32)
