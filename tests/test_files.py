"""A file is written whole or left unchanged, and errors name it."""

import pathlib

import pytest

from jaxvae import files


def test_a_file_that_was_not_written_is_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write(path, "old")
    write_text = pathlib.Path.write_text

    def half(self, text, **options):
        write_text(self, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", half)
    with pytest.raises(OSError, match=rf"{path} could not be written \(No space left on device\)"):
        files.write(path, "new and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_takes_the_place_of_a_file_is_whole(tmp_path):
    path = tmp_path / "a.npy"
    path.write_text("old")
    with pytest.raises(OSError, match=r"a\.npy could not be written \(No space left"), files.replacing(path) as new:  # noqa: PT012
        new.write_text("ne")
        assert path.read_text() == "old"
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    with files.replacing(path) as new:
        new.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_device_is_named():
    full = pathlib.Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match=r"/dev/full could not be written \(No space left on device\)"):
        files.append(full, "a line")
