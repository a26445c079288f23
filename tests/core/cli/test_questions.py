"""Questions from JSONL and directories as people have them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vflowopt.cli.data import Question, read_directory, read_jsonl
from vflowopt.errors import InputError


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 6)).save(path)
    return path


def write(directory, text, encoding="utf-8"):
    path = directory / "questions.jsonl"
    path.write_bytes(text.encode(encoding))
    return path


def line(**fields):
    return json.dumps({"image": "image.png", "question": "what?", "answers": ["one"], **fields}, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(encoding, end, tmp_path, image):
    texts = ["was f\u00e4llt auf?", "\u8fd9\u662f\u4ec0\u4e48?"]
    path = write(tmp_path, end + f"{end}  {end}".join(line(question=text) for text in texts) + end, encoding)
    assert [question.text for question in read_jsonl(path)] == texts


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_what_unicode_calls_the_end_of_a_line_may_stand_in_a_string(separator, tmp_path, image):
    raw = separator if separator > "\x1f" else json.dumps(separator)[1:-1]  # JSON escapes control characters
    path = write(tmp_path, f'{{"image": "image.png", "question": "a{raw}b"}}\n{line()}\n')
    assert [question.text for question in read_jsonl(path)] == [f"a{separator}b", "what?"]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_every_text_is_read_back(texts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("questions")
    Image.new("RGB", (8, 6)).save(directory / "image.png")
    path = write(directory, "\n".join(line(question=text, answers=texts) for text in texts))
    assert [(question.text, list(question.answers)) for question in read_jsonl(path)] == [
        (text, texts) for text in texts
    ]


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"video": None}, ("one",)),
        ({"answer": None}, ("one",)),
        ({"answers": None}, ()),
        ({"answers": None, "answer": "two"}, ("two",)),
        ({"id": None, "category": {"name": None}}, ("one",)),
    ],
)
def test_null_is_as_good_as_left_out(fields, answers, tmp_path, image):
    (question,) = read_jsonl(write(tmp_path, line(**fields)))
    assert (question.answers, question.videos, len(question.images())) == (answers, (), 1)


def test_paths_are_absolute_or_relative_to_the_file(tmp_path, image, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = write(tmp_path, "\n".join([line(image=str(image)), line(image=["image.png", str(image)])]))
    assert [len(question.images()) for question in read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "line 1 is not JSON"),
        ("null", "line 1: expected"),
        (line() + "\n\n" + line(image=None), "line 3: expected .* with an image or a video"),
        (line() + "\n" + line(image="missing.png"), "line 2: cannot read the image .*missing.png"),
        (line(image="x" * 300), "line 1: cannot read the image"),
        (line(video="missing.mp4"), "line 1: there is no video .*missing.mp4"),
        (line(question=None), "line 1: expected"),
        (line(answers=[None]), "line 1: expected"),
    ],
    ids=range(8),
)
def test_a_wrong_line_is_named_with_its_number(text, said, tmp_path, image):
    with pytest.raises(InputError, match=said):
        read_jsonl(write(tmp_path, text))


def test_an_encoding_that_cannot_be_told_names_the_remedy(tmp_path, image):
    with pytest.raises(InputError, match=r"cannot read .*questions\.jsonl.*; save it as UTF-8"):
        read_jsonl(write(tmp_path, line(question="f\u00e4llt"), "latin-1"))


def test_a_directory_of_images_with_what_systems_leave_there(tmp_path, image):
    Image.new("RGB", (8, 6)).save(tmp_path / "B.JPG")
    for name in ("._image.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "more.png").mkdir()
    questions = read_directory(tmp_path, "what?")
    assert [question.sources[0].name for question in questions] == ["B.JPG", "image.png"]


@pytest.mark.parametrize("name", ["missing", "x" * 300, "nul\0", "image.png"])
def test_what_is_no_directory_is_named(name, tmp_path, image):
    with pytest.raises(InputError, match="there is no directory"):
        read_directory(tmp_path / name, "what?")


class Refusing:
    """A model whose processor takes nothing."""

    def prepare(self, images, prompt, videos):
        raise InputError("too tall")


def test_what_a_processor_refuses_is_named_by_its_line(tmp_path, image):
    _, second = read_jsonl(write(tmp_path, line() + "\n" + line()))
    with pytest.raises(InputError, match=r"questions\.jsonl', line 2: too tall$"):
        second.prepare(Refusing())
    with pytest.raises(InputError, match=r"^too tall$"):
        Question((), "what?").prepare(Refusing())
