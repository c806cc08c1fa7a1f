"""The fault harness: python tests/faults.py --help. Its quick form is tests/test_faults.py.

Each fault prints one JSON object with its counts, or ends with an AssertionError where a promise was broken.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial

import jax
import numpy as np

from jaxvae.checkpoints import Checkpoints
from jaxvae.experiment import serialization, workdir

ROOT = pathlib.Path(__file__).parents[1]
# An epoch with its checkpoint takes about a fifth of a second, so that many moments fall within a save.
CONFIG = """
import jaxvae as jv
from jaxvae.experiment import loop
loop._DISPATCH_SECONDS = 0.02
def get_config():
    return jv.Experiment(
        data=jv.Data(name={data!r}, preprocess=jv.DynamicBinarization()),
        model=jv.VAE(latent_dim=2, encoder=jv.MLP(hidden=({width},)), decoder=jv.MLP(hidden=({width},))),
        optimizer=jv.Adam(schedule=jv.Cosine()), num_epochs={epochs}, batch_size=10, ema_decay=0.99,
        eval_every_epochs=2, checkpoint_every_epochs={every})
"""
STEPS_PER_EPOCH = 1500


class Runs:
    """Training processes of one config, in their own folder."""

    def __init__(self, folder, *, epochs, every=1, width=8):
        self.folder, self.every = folder, every
        self.logs = 0
        np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 256, (21_000, 4, 4, 1), dtype=np.uint8))
        text = CONFIG.format(data=str(folder / "x.npy"), epochs=epochs, every=every, width=width)
        (folder / "c.py").write_text(text)

    def start(self, name, *arguments):
        command = [sys.executable, ROOT / "scripts" / "train.py", f"--config={self.folder / 'c.py'}"]
        command += [f"--workdir={name if os.path.isabs(name) else self.folder / name}", *arguments]
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        env = cache | os.environ | {"JAX_PLATFORMS": "cpu"}  # the tests set their own cache
        self.logs += 1
        log = self.folder / f"log-{self.logs}"
        with log.open("w") as file:
            process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
        process.log = log
        return process

    def start_two(self, name):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        among = (f"--coordinator={address}", "--num-processes=2")
        return [self.start(name, *among, f"--process-id={i}") for i in range(2)]

    def finish(self, process):
        assert process.wait(timeout=900) == 0, process.log.read_text()
        return re.search("sha256 (.*)", process.log.read_text()).group(1)


def steps_of(folder):
    """The steps of the epochs in the log."""
    return [record["step"] for record in workdir.read_metrics(folder) if record["split"] == "train"]


def wait_until(process, condition, seconds=120):
    deadline = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, process.log.read_text()
        time.sleep(0.005)


def catches(process):
    """Whether the process has a handler for SIGTERM yet. Before that, Python is still loading its libraries."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    return caught is not None and bool(int(caught.group(1), 16) >> (signal.SIGTERM - 1) & 1)


def kills(folder, *, count=100, epochs=400, seed=0):
    """kill -9 at random times during loading, training and saving: the run resumes and ends with the same bits."""
    runs, rng = Runs(folder, epochs=epochs), random.Random(seed)
    whole = runs.finish(runs.start("whole"))
    run, lost, moments = folder / "killed", [], Counter()
    for _ in range(count):
        before = (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").exists() else 0
        process = runs.start("killed")
        if rng.random() < 0.8:
            wait_until(process, partial(_grew, run, before))
            time.sleep(rng.uniform(0.0, 0.6))
        else:
            time.sleep(rng.uniform(0.0, 5.0))
        if process.poll() is not None:
            assert process.returncode == 0, process.log.read_text()
            raise AssertionError(f"the run ended after {sum(moments.values())} kills; give it more epochs")
        process.kill()
        process.wait()
        saving = any("tmp" in path.name for path in (run / "checkpoints" / "latest").glob("*"))
        known = max(steps_of(run), default=0) if (run / "metrics.jsonl").exists() else 0
        # A step that was being saved may have left a folder that is not a checkpoint; Orbax's name for it says so.
        saved = _newest(run)
        moments["while saving" if saving else "before the first save" if saved == 0 else "otherwise"] += 1
        lost.append(known - saved)
        assert known - saved <= STEPS_PER_EPOCH, (known, saved)
    assert runs.finish(runs.start("killed")) == whole
    lines = [(folder / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert lines[0] == lines[1]
    return {"kills": count, "moments": dict(moments), "steps_lost_at_most": max(lost), "interval": STEPS_PER_EPOCH}


def _grew(run, before):
    log = run / "metrics.jsonl"
    return log.exists() and log.stat().st_size != before and bool(steps_of(run))


def _newest(run):
    latest = run / "checkpoints" / "latest"
    return max((int(path.name) for path in latest.glob("*") if path.name.isdigit()), default=0)


def damage(folder, *, count=500, seed=0):
    """A file or folder of the newest checkpoint is damaged: the damage is named, and the checkpoint before is used."""
    runs, rng = Runs(folder, epochs=3, width=32), np.random.default_rng(seed)
    runs.finish(runs.start("run"))
    latest = folder / "run" / "checkpoints" / "latest"
    experiment = serialization.read(folder / "run" / "config.json")
    identity = workdir.identity(experiment)
    truth, shapes = {}, None
    older, newest = sorted(int(path.name) for path in latest.iterdir() if path.name.isdigit())
    from jaxvae import data
    from jaxvae.experiment.session import Trainer

    shapes = Trainer.of(experiment, data.load(experiment.data)).session_shapes()
    for step in (older, newest):
        alone = folder / f"alone-{step}"
        shutil.copytree(latest / str(step), alone / str(step))
        truth[step] = _restore(alone, shapes, identity)[0].tree
    outcomes, harmless = Counter(), Counter()
    copy = folder / "copy"
    for _ in range(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(latest, copy)
        what = _damage(copy / str(newest), rng)
        restored, lines = _restore(copy, shapes, identity)
        pairs = zip(jax.tree.leaves(restored.tree), jax.tree.leaves(truth[restored.step]), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), what
        if restored.step == newest:
            harmless[what] += 1
        else:
            assert any(f"the checkpoint of step {newest} in {copy} is damaged" in line for line in lines), what
            outcomes[what.split()[0]] += 1
    assert set(harmless) <= {"deleted SHA256SUMS"}, harmless
    return {"damaged": count, "named_and_passed_over": dict(outcomes), "harmless": dict(harmless)}


def _restore(folder, shapes, identity):
    lines = []
    with contextlib.closing(Checkpoints(folder, read_only=True, config=identity, say=lines.append)) as checkpoints:
        return checkpoints.restore(shapes), lines


def _damage(step, rng):
    """Damages one file or folder of a checkpoint, and returns what it did."""
    files = sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)
    file = files[rng.integers(len(files))]
    content = bytearray(file.read_bytes())
    kind = ("flipped", "overwritten", "cut", "emptied", "deleted", "longer", "folder")[rng.integers(7)]
    if kind == "flipped":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif kind == "overwritten":
        at = int(rng.integers(len(content)))
        content[at : at + 16] = bytes(255 - b for b in content[at : at + 16])
    elif kind == "cut":
        del content[int(rng.integers(len(content))) :]
    elif kind == "emptied":
        content = b""
    elif kind == "longer":
        content += rng.bytes(int(rng.integers(1, 100)))
    if kind == "deleted":
        file.unlink()
    elif kind == "folder":
        folders = sorted(path for path in step.rglob("*") if path.is_dir())
        file = folders[rng.integers(len(folders))]
        shutil.rmtree(file)
    else:
        file.write_bytes(content)
    return f"{kind} {file.relative_to(step).as_posix()}"


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A disk of `megabytes`; only root can mount it."""
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", small], check=True)
    try:
        yield small
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def disk(folder, *, megabytes=24, epochs=60, left_kib=(0, 16, 48, 96)):
    """A disk that fills up: the run ends within a save interval with its error, and resumes when there is space.

    The space left lets none, some or most of a checkpoint's files be written.
    """
    runs = Runs(folder, epochs=epochs, width=64)
    whole = runs.finish(runs.start("whole"))
    with small_disk(folder, megabytes) as small:
        ends = [_filled(runs, small, str(small / f"run-{kib}"), kib, whole) for kib in left_kib]
    return {"times": len(ends), "left_kib": left_kib} | {name: [end[name] for end in ends] for name in ends[0]}


def _filled(runs, small, name, left_kib, whole):
    from jaxvae.experiment.restoring import restore_last_params

    run, filler = pathlib.Path(name), small / "filler"
    process = runs.start(name)
    wait_until(process, lambda: _newest(run) >= 3 * STEPS_PER_EPOCH)
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    os.truncate(filler, filler.stat().st_size - 1024 * left_kib)
    full, at = time.monotonic(), max(steps_of(run))
    assert process.wait(timeout=60) == 1, process.log.read_text()
    seconds, lines = time.monotonic() - full, process.log.read_text().splitlines()
    assert re.search("no checkpoint could be saved at step|metrics.jsonl'$", lines[-1]), lines
    assert "o space left on device" in lines[-1], lines
    assert [line for line in lines if "rror" in line] == [lines[-1]], lines
    experiment = serialization.read(run / "config.json")
    _, step = restore_last_params(experiment, run)
    assert step >= at - STEPS_PER_EPOCH, (step, at)
    again = runs.start(name)  # still full
    assert again.wait(timeout=120) in (1, 2), again.log.read_text()
    still = again.log.read_text().splitlines()[-1]
    assert restore_last_params(experiment, run)[1] == step
    filler.unlink()
    assert runs.finish(runs.start(name)) == whole
    shutil.rmtree(run)
    return {
        "full_after_step": at,
        "newest_sound_step": step,
        "seconds_to_the_error": round(seconds, 2),
        "error": lines[-1],
        "still_full": still,
    }


def read_only(folder):
    """A run in a read-only folder: commands that read it work, those that write say so, and nothing changes."""
    runs = Runs(folder, epochs=4)
    with small_disk(folder, 24) as small:
        run, other = small / "run", small / "other"
        whole = runs.finish(runs.start(str(run)))
        damaged = small / "damaged"
        shutil.copytree(run, damaged)
        older, newest = sorted(int(path.name) for path in (damaged / "checkpoints" / "best").iterdir())
        shutil.rmtree(damaged / "checkpoints" / "best" / str(newest) / "manifest")
        before = _content(small)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        said = {}
        for folder_of in (run, other):
            process = runs.start(str(folder_of))
            assert process.wait(timeout=120) == 2, process.log.read_text()
            said[f"train {folder_of.name}"] = process.log.read_text().splitlines()[-1].replace(str(small), "DIR")
        for name, step in (("run", newest), ("damaged", older)):
            script = [sys.executable, ROOT / "scripts" / "evaluate.py", f"--workdir={small / name}"]
            done = subprocess.run([*script, "--num-importance-samples=10"], capture_output=True, text=True, check=True)
            assert json.loads(done.stdout.splitlines()[-1])["step"] == step, done
            said[f"evaluate {name}"] = done.stderr.replace(str(small), "DIR").splitlines()
            named = f"the checkpoint of step {newest} in DIR/damaged/checkpoints/best is damaged"
            assert any(named in line for line in said[f"evaluate {name}"]) == (name == "damaged"), done
        assert _content(small) == before
        subprocess.run(["mount", "-o", "remount,rw", small], check=True)
        assert runs.finish(runs.start(str(run))) == whole
    return {"said": said}


def _content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def signals(folder, *, count=50, processes=1, epochs=40, seed=0):
    """SIGTERM at random moments of a whole run: it is saved, or the documented line says that there was nothing yet."""
    from jaxvae.experiment.restoring import restore_last_params

    runs, rng = Runs(folder, epochs=epochs, every=10), random.Random(seed)
    begin = (lambda name: [runs.start(name)]) if processes == 1 else runs.start_two
    for name in ("compiled", "timed"):
        started = begin(name)
        for process in started:
            wait_until(process, partial(catches, process))
        began = time.monotonic()
        assert not any(process.wait(timeout=600) for process in started), started[0].log.read_text()
        whole = time.monotonic() - began
    outcomes, examples, seconds = Counter(), {}, []
    while len(seconds) < count:
        run = folder / f"run-{outcomes.total()}"
        started = begin(run.name)
        for process in started:
            wait_until(process, partial(catches, process))
        time.sleep(rng.uniform(0.0, whole))
        told = started if rng.random() < 0.5 else [rng.choice(started)]
        began = time.monotonic()
        for process in told:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=120) for process in started]
        logs = [process.log.read_text() for process in started]
        if "test elbo" in logs[0]:  # its last line
            outcomes["after the end"] += 1
            shutil.rmtree(run)
            continue
        seconds.append(time.monotonic() - began)
        assert all(process.returncode == 128 + signal.SIGTERM for process in told), (codes, logs)
        assert all(codes), (codes, logs)
        line = next((s for log in logs for s in log.splitlines() if s.startswith("stopped by SIGTERM")), None)
        assert line is not None, logs
        saved = re.search(r"and saved at step (\d+); the same command goes on", line)
        if saved:
            kind = "saved within" if int(saved.group(1)) < epochs * STEPS_PER_EPOCH else "saved at the end"
            experiment = serialization.read(run / "config.json")
            assert restore_last_params(experiment, run)[1] == int(saved.group(1))
        else:
            kind = "nothing to save yet"
            assert line == "stopped by SIGTERM", logs
            assert _newest(run) == 0, logs
        outcomes[kind] += 1
        examples[kind] = line
        shutil.rmtree(run, ignore_errors=True)
    return {
        "processes": processes,
        "signals": count,
        "outcomes": dict(outcomes),
        "lines": examples,
        "seconds_to_the_end": {"median": round(float(np.median(seconds)), 2), "largest": round(max(seconds), 2)},
    }


def soak(folder, *, minutes=30.0):
    """Training, evaluating and saving in a loop: memory, file descriptors and disk stay flat."""
    import psutil

    runs = Runs(folder, epochs=10_000_000)
    process = runs.start("run")
    wait_until(process, lambda: _newest(folder / "run") > 0)
    about, samples, began = psutil.Process(process.pid), [], time.monotonic()
    while time.monotonic() - began < 60 * minutes:
        assert process.poll() is None, process.log.read_text()
        time.sleep(min(5.0, 60 * minutes / 50))
        kept = 0
        for where, _, names in os.walk(folder / "run" / "checkpoints"):  # ignores a checkpoint that is being replaced
            for name in names:
                with contextlib.suppress(OSError):
                    kept += os.stat(os.path.join(where, name)).st_size
        samples.append((about.memory_info().rss, about.num_fds(), kept, about.num_threads()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    epochs = len(steps_of(folder / "run"))
    tenth = max(1, len(samples) // 10)
    # The first tenth, in which everything is compiled and cached, does not count; a save holds one checkpoint more.
    early, late = np.median(samples[tenth : 2 * tenth + 1], axis=0), np.median(samples[-tenth:], axis=0)
    names = ("memory", "file_descriptors", "checkpoints", "threads")
    growth = dict(zip(names, (late / early - 1).tolist(), strict=True))
    assert growth["memory"] < 0.03, (growth, samples)
    assert late[1] <= early[1] + 1, (growth, samples)
    assert growth["checkpoints"] < 0.5, (growth, samples)
    return {
        "minutes": minutes,
        "epochs_with_evaluation_and_checkpoint": epochs,
        "memory_mib": {
            "early": early[0] / 2**20,
            "late": late[0] / 2**20,
            "largest": max(s[0] for s in samples) / 2**20,
        },
        "file_descriptors": {"early": early[1], "late": late[1]},
        "checkpoints_mib": {"early": early[2] / 2**20, "late": late[2] / 2**20},
        "growth": growth,
    }


def bad_input(folder):
    """300 configs, 100 arrays and 1,000 model files with one mistake each."""
    files = [ROOT / "tests" / name for name in ("test_bad_input.py", "test_model_files.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=os.environ | {"JAXVAE_FAULTS": "full"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    counts = {}
    for text in re.findall(r"\{\".*?\}", done.stdout):
        counts |= json.loads(text)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=[*FULL, "all"])
    parser.add_argument("--output", type=pathlib.Path, help="a file to which the JSON lines are added")
    arguments = parser.parse_args()
    for name in FULL if arguments.fault == "all" else [arguments.fault]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"faults-{name}-") as folder:
            result = {"fault": name} | FULL[name](pathlib.Path(folder))
        result |= {
            "seconds": round(time.monotonic() - began),
            "jax": jax.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }
        print(json.dumps(result), flush=True)
        if arguments.output is not None:
            with arguments.output.open("a") as file:
                file.write(json.dumps(result) + "\n")


FULL = {
    "kills": kills,
    "damage": damage,
    "disk": disk,
    "read-only": read_only,
    "signals": signals,
    "signals-two": lambda folder: signals(folder, processes=2, epochs=4),  # a step takes thirty times as long with two
    "bad-input": bad_input,
    "soak": soak,
}

if __name__ == "__main__":
    main()
