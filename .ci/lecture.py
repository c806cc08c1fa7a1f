#!/usr/bin/env python3
"""Runs every command of docs/lecture.md in order, and looks for every figure it names: `.ci/lecture.py [FOLDER]`.

The package must be installed. The runs are written to FOLDER/runs (default: here). The commands that need MNIST run
only if TFDS_DATA_DIR is set.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "lecture.md").read_text()
FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


def main() -> int:
    (FOLDER / "runs").mkdir(parents=True, exist_ok=True)
    for name in ("scripts", "configs"):
        if not (FOLDER / name).exists():
            (FOLDER / name).symlink_to(ROOT / name)
    failed, begin, now = [], time.monotonic(), time.time()
    for command in dict.fromkeys(re.findall(r"python scripts/[^`\n]+", PAGE)):
        if "$TFDS_DATA_DIR" in command and not os.environ.get("TFDS_DATA_DIR"):
            print(f"left out  {command}")
            continue
        start = time.monotonic()
        good = explore(command) if "explore.py" in command else run(command)
        print(f"{'ok' if good else 'FAILED':8}  {time.monotonic() - start:5.0f} s  {command}", flush=True)
        failed += [] if good else [command]
    made = time.monotonic() - begin
    figures = sorted(set(re.findall(r"`(runs/[\w/]+\.(?:png|html))`", PAGE)))
    failed += [f for f in figures if not (FOLDER / f).is_file() or (FOLDER / f).stat().st_mtime < now]
    print(f"{len(figures)} figures are named; {made:.0f} s in all; failed: {failed or 'nothing'}")
    return 1 if failed else 0


def run(command: str) -> bool:
    done = subprocess.run(["bash", "-c", command], cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:])
    return done.returncode == 0


def explore(command: str) -> bool:
    """Whether the page is served and Ctrl-C ends it."""
    arguments = [sys.executable, *command.split()[1:], "--port=0"]
    with subprocess.Popen(
        arguments, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        found = re.match(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        page = urllib.request.urlopen(found.group(0)).read().decode() if found else ""
        server.send_signal(signal.SIGINT)
        return server.wait(30) == 0 and "The latent space of" in page


if __name__ == "__main__":
    sys.exit(main())
