"""Files are written whole or not at all, and nothing of others is lost."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vflowopt.errors import OutputError
from vflowopt.files.output import FileKind, Output, claim_folder, make_folder

KIND = FileKind.json("a thing", "things/1")
OURS = b'{\n "format": "things/1",\n "a": 1}\n'


def write(path, content="new", **options):
    return Output.claim(path, KIND, **options).write(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("there", [None, b"", OURS, b'{"format": "things/1"}', b' {"format" : "things/1"}'])
def test_what_is_ours_or_nothing_is_replaced(tmp_path, there):
    path = tmp_path / "a.json"
    if there is not None:
        path.write_bytes(there)
    assert write(path, "новое\n") == path
    assert path.read_text(encoding="utf-8") == "новое\n"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("there", [b"notes", b'{"a": 1}', b'{"format": "things/2"}', b'{"a": 1, "format": "things/1"}'])
def test_anything_else_is_left_alone_unless_forced(tmp_path, there):
    path = tmp_path / "a.json"
    path.write_bytes(there)
    with pytest.raises(OutputError, match=r"a\.json' exists and is not a thing .*--force"):
        write(path)
    assert path.read_bytes() == there
    write(path, force=True)
    assert path.read_bytes() == b"new"


def test_inputs_are_kept_unless_forced(tmp_path):
    path, link = tmp_path / "a.json", tmp_path / "b.json"
    path.write_bytes(OURS)
    link.hardlink_to(path)
    with pytest.raises(OutputError, match="read as well"):
        write(path, inputs=[link])
    assert path.read_bytes() == OURS
    write(path, inputs=[link], force=True)
    assert (path.read_bytes(), link.read_bytes()) == (b"new", OURS)


def test_links_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "a.json")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "far" / "a.json").read_bytes() == b"new"
    (tmp_path / "far" / "a.json").write_bytes(b"notes")
    with pytest.raises(OutputError, match="link"):
        write(link)


def test_the_mode_is_that_of_a_usual_file_or_the_one_before(tmp_path):
    path, usual = tmp_path / "a.json", tmp_path / "usual"
    usual.touch()
    write(path)
    assert path.stat().st_mode == usual.stat().st_mode
    path.write_bytes(OURS)
    path.chmod(0o640)
    write(path)
    assert path.stat().st_mode & 0o777 == 0o640


IMPOSSIBLE = {
    "directory": (lambda folder: folder, "is a directory"),
    "nothing": (lambda folder: "", "is a directory"),
    "missing": (lambda folder: folder / "no" / "a.json", "there is no directory"),
    "below a file": (lambda folder: folder / "file" / "a.json", "Not a directory"),
    "long": (lambda folder: folder / ("n" * 300), "too long"),
    "null byte": (lambda folder: f"{folder}/a\0b", "null byte"),
    "loop": (lambda folder: folder / "loop", "symbolic links"),
    "device": (lambda folder: "/dev/null", "no regular file"),
    "system": (lambda folder: "/proc/a.json", "No such file"),
    "number": (lambda folder: 5, "5"),
}


@pytest.mark.skipif(os.name != "posix", reason="its paths are those of POSIX")
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_written_is_refused_at_once(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    make, reason = IMPOSSIBLE[name]
    before = names(tmp_path)
    with pytest.raises(OutputError, match=f"cannot write .*{reason}.*; (name|make) "):
        Output.claim(make(tmp_path), KIND)
    assert names(tmp_path) == before


def test_a_protected_directory_is_refused(tmp_path, monkeypatch):
    """By a system call that fails: permissions do not bind whoever runs tests as root."""

    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        Output.claim(tmp_path / "a.json", KIND)


@pytest.mark.parametrize("trouble", ["full", "theirs", "gone"])
def test_a_result_that_cannot_be_written_any_more_is_kept_elsewhere(tmp_path, monkeypatch, trouble):
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(kept))
    folder = tmp_path / "out"
    folder.mkdir()
    claimed = Output.claim(folder / "a.json", KIND)
    if trouble == "full":

        def fail(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
    elif trouble == "theirs":
        (folder / "a.json").write_bytes(b"notes")
    else:
        folder.rmdir()
    with pytest.raises(OutputError, match=r"a\.json.*; it was kept as '(.*)'"):
        claimed.write("result")
    (file,) = kept.glob("*/a.json")
    assert file.read_bytes() == b"result"
    if trouble != "gone":
        assert names(folder) == (["a.json"] if trouble == "theirs" else [])


KILLED = """
import os, signal, sys
from pathlib import Path
from vflowopt.files import output
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
output.Output.claim(sys.argv[1], output.FileKind.json("a thing", "things/1")).write("new")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_what_a_kill_leaves_behind_is_swept_up_by_the_next_claim(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(OURS)
    mine = tmp_path / f".vflowopt-{os.getpid()}-01234567.part"
    mine.touch()
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
    assert path.read_bytes() == OURS
    assert len(names(tmp_path)) == 3
    Output.claim(path, KIND)
    assert names(tmp_path) == [mine.name, "a.json"]  # of a process that is running


def test_folders_are_made_only_when_wanted(tmp_path):
    folder = claim_folder(tmp_path / "a" / "b")
    assert names(tmp_path) == []
    make_folder(folder)
    assert claim_folder(folder).is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / ("n" * 300), "/proc/a", "a\0b"):
        with pytest.raises(OutputError, match="cannot write"):
            claim_folder(path)
    with pytest.raises(OutputError, match="cannot write"):
        make_folder(tmp_path / "file" / "a")
