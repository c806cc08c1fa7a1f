"""A file is whole or as it was, and what went wrong with it names it."""

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
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        files.write(path, "new and longer")
    assert path.read_text() == "old"


def test_a_full_device_is_named():
    full = pathlib.Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        files.append(full, "a line")
