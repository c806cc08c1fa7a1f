"""A damaged checkpoint is named and skipped; an intact one that does not fit is refused; nothing is lost."""

import gc
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import checkpoints
from jaxvae.checkpoints import Checkpoints, Mismatch

GOLDEN = pathlib.Path(__file__).parent / "golden"


def tree_of(step):
    return {
        "weights": np.random.default_rng(step).normal(size=(64, 3)).astype(np.float32),
        "count": np.asarray(step, np.int32),
        "half": jnp.full(5, step, jnp.bfloat16),
    }


SHAPES = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree_of(0)))


def save(folder, *steps, **options):
    manager = Checkpoints(folder, config={"a": 1}, **options)
    for step in steps:
        manager.save(step, tree_of(step))
    manager.close()


def restore(folder, abstract=SHAPES, **options):
    lines = []
    manager = Checkpoints(folder, say=lines.append, **options)
    try:
        return manager.restore(abstract), lines
    finally:
        manager.close()


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def flip(path):
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(len(data)).integers(len(data), size=3) if data else ():
        data[place] ^= 1 << (place % 8)
    path.write_bytes(data)


DAMAGE = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_file_can_be_damaged_without_notice(tmp_path, damage):
    save(tmp_path / "sound", 3, 7)
    files = sorted(p.relative_to(tmp_path) for p in (tmp_path / "sound" / "7").rglob("*") if p.is_file())
    passed_over = 0
    for i, file in enumerate(files):
        shutil.copytree(tmp_path / "sound", tmp_path / "run" / str(i))
        damaged = tmp_path / "run" / str(i) / file.relative_to("sound")
        DAMAGE[damage](damaged)
        harmless = file.name == "SHA256SUMS" and not damaged.exists()
        restored, lines = restore(tmp_path / "run" / str(i))
        assert restored.step == (7 if harmless else 3), file
        assert same(restored.tree, tree_of(restored.step)), file
        assert restored.config == {"a": 1}
        if restored.step == 3:
            passed_over += 1
            assert "the checkpoint of step 7" in lines[0]
            assert "is damaged" in lines[0]
            assert "the checkpoint of step 3 is used instead" in lines[1]
    print(f"{damage}: {passed_over} of {len(files)} damaged checkpoints were named and passed over")


def test_the_manifest_finds_what_the_sums_of_the_files_do_not(tmp_path):
    save(tmp_path, 3, 7)
    found = {}
    for name in ("manifest", "default"):
        shutil.copytree(tmp_path, tmp_path / name)
        shutil.rmtree(tmp_path / name / "7" / name)
        shutil.copytree(tmp_path / "3" / name, tmp_path / name / "7" / name)  # intact, but of another step
        (tmp_path / name / "7" / "SHA256SUMS").unlink()
        restored, lines = restore(tmp_path / name)
        assert restored.step == 3
        found[name] = lines[0]
    assert "its manifest is not what was saved" in found["manifest"]
    assert "count and 2 more is not what was saved" in found["default"]


def test_what_is_damaged_is_kept_aside_and_its_step_is_saved_again(tmp_path):
    save(tmp_path / "latest", 3, 7)
    shutil.rmtree(tmp_path / "latest" / "7" / "default")
    manager = Checkpoints(tmp_path / "latest", config={"a": 1}, say=lambda line: None)
    assert manager.restore(SHAPES).step == 3
    assert (tmp_path / "damaged" / "latest-7").is_dir()
    assert manager.latest_step == 3
    manager.save(7, tree_of(7))
    manager.close()
    assert restore(tmp_path / "latest")[0].step == 7


def test_a_step_of_an_earlier_process_is_not_taken_for_sound(tmp_path):
    save(tmp_path, 3, 7)
    shutil.rmtree(tmp_path / "7" / "default")
    save(tmp_path, 7)
    restored, lines = restore(tmp_path)
    assert (restored.step, lines) == (7, [])


def test_what_a_run_that_went_back_will_save_again_is_dropped(tmp_path):
    save(tmp_path, 3, 7)
    manager = Checkpoints(tmp_path, config={"a": 1})
    manager.drop_after(5)
    assert manager.steps == [3]
    manager.save(7, tree_of(7))
    manager.drop_after(5)
    manager.save(7, tree_of(7))
    assert manager.steps == [7, 3]
    manager.drop_after(5)
    manager.close()
    assert restore(tmp_path)[0].step == 3


def test_a_file_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "2").touch()
    assert checkpoints.steps_in(tmp_path) == [1]


def test_a_reader_changes_nothing(tmp_path, caplog):
    save(tmp_path / "latest", 3, 7)
    (tmp_path / "latest" / "7" / "_CHECKPOINT_METADATA").write_text("")
    shutil.rmtree(tmp_path / "latest" / "7" / "manifest")
    before = sorted(tmp_path.rglob("*"))
    restored, lines = restore(tmp_path / "latest", read_only=True)
    assert restored.step == 3
    assert len(lines) == 2
    assert caplog.records == []  # and no messages of Orbax's
    with pytest.raises(ValueError, match="was opened with read_only=True"):
        save(tmp_path / "latest", 9, read_only=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_saving_loses_no_memory(tmp_path):
    """Counts the interpreter's memory blocks: Orbax's OCDBT format leaks four for each array at every save."""
    tree, blocks = {f"a{i}": np.arange(3.0) for i in range(20)}, []
    manager = Checkpoints(tmp_path)
    for step in range(1, 61):
        manager.save(step, tree)
        if step in (30, 60):
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    manager.close()
    assert blocks[1] - blocks[0] < 600  # OCDBT would leak 2,400


def test_arrays_that_cannot_be_written_are_one_line(tmp_path):
    """Many writes fail at once, each in its own thread, as on a disk that fills up in between."""
    code = f"""
import pathlib, resource
import numpy as np
from jaxvae.checkpoints import Checkpoints
manager = Checkpoints(pathlib.Path({str(tmp_path)!r}))
tree = {{f"a{{i}}": np.random.default_rng(i).normal(size=2000) for i in range(40)}}
manager.save(1, tree)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    manager.save(2, tree)
except OSError as error:
    print(str(error).splitlines()[0])
manager.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no checkpoint could be saved at step 2 in "), done.stdout
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == ["1"]


def test_a_reader_keeps_up_with_its_run(tmp_path, monkeypatch):
    """While it reads, the run saves newer steps and deletes all that the reader knew; none is reported as damaged."""
    save(tmp_path, 3, 7)
    check, going_on = checkpoints._check_sums, iter([(11, 13)])

    def check_later(folder):
        save(tmp_path, *next(going_on, ()))
        check(folder)

    monkeypatch.setattr(checkpoints, "_check_sums", check_later)
    restored, lines = restore(tmp_path, read_only=True)
    assert (restored.step, lines) == (13, [])
    assert same(restored.tree, tree_of(13))


def test_all_damaged_is_an_error(tmp_path):
    save(tmp_path, 3, 7)
    for step in ("3", "7"):
        shutil.rmtree(tmp_path / step)
        (tmp_path / step).mkdir()
    with pytest.raises(OSError, match=r"all checkpoints in .* are damaged \(steps 7, 3\)"):
        restore(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"3", "7"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": np.zeros((64, 4), np.float32)}, r"weights is float32\[64, 3\] there and float32\[64, 4\] here"),
        ({"weights": np.zeros((64, 3), np.float16)}, r"weights is float32\[64, 3\] there and float16\[64, 3\] here"),
        ({"more": np.zeros(2, np.float32)}, r"more is not there and float32\[2\] here"),
        ({"count": None}, r"count is int32\[\] there and not here"),
    ],
)
def test_a_sound_one_of_something_else_is_refused_with_the_difference(tmp_path, changed, message):
    save(tmp_path, 3, 7)
    wanted = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree_of(0) | changed))
    with pytest.raises(Mismatch, match=message) as refusal:
        restore(tmp_path, wanted)
    assert "JAX_ENABLE_X64" not in str(refusal.value)


def test_one_saved_in_double_precision_says_so(tmp_path):
    save(tmp_path, 3)
    with jax.enable_x64(True):
        wanted = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree_of(0) | {"weights": np.zeros((64, 3))}))
    with pytest.raises(Mismatch, match=r"float32\[64, 3\] there and float64\[64, 3\] here; set JAX_ENABLE_X64 as when"):
        restore(tmp_path, wanted)


def test_a_later_format_is_refused_by_name(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
        save(tmp_path, 3)
    with pytest.raises(Mismatch, match=f"has the format {checkpoints.FORMAT + 1}, .* reads up to {checkpoints.FORMAT}"):
        restore(tmp_path)


def test_what_cannot_be_saved_is_an_error_and_the_older_ones_stay(tmp_path, monkeypatch):
    manager = Checkpoints(tmp_path)
    manager.save(3, tree_of(3))
    with monkeypatch.context() as full:
        full.setattr(manager._manager, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(OSError, match="no checkpoint could be saved at step 7"):
            manager.save(7, tree_of(7))
    with monkeypatch.context() as refusing:
        refusing.setattr(manager._manager, "save", lambda *_, **__: False)
        with pytest.raises(OSError, match="no checkpoint was saved at step 7"):
            manager.save(7, tree_of(7))
    manager.close()
    assert restore(tmp_path)[0].step == 3


@pytest.mark.parametrize("version", range(1, checkpoints.FORMAT + 1))
def test_every_format_is_read_for_ever(version):
    restored, lines = restore(GOLDEN / f"checkpoints-{version}", read_only=True)
    assert (restored.step, restored.config, lines) == (7, {"a": 1}, [])
    assert same(restored.tree, tree_of(7))
    manifest = json.loads((GOLDEN / f"checkpoints-{version}" / "7" / "manifest" / "metadata").read_text())
    assert manifest["format"] == version
