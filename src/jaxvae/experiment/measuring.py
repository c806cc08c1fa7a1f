"""A long measurement that a signal can stop, and that the same command resumes."""

import contextlib
import hashlib
import io
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxvae import data, evaluation, files
from jaxvae.checks import reason
from jaxvae.evaluation import Evaluate, PerExample
from jaxvae.experiment import console, outcome, restoring, stopping
from jaxvae.fingerprints import digest
from jaxvae.typing import Key, Params, Rows

_SAVE_SECONDS = 30.0


def evaluate_run(
    trained: restoring.Trained,
    split: str,
    *,
    num_importance_samples: int,
    folder: pathlib.Path,
    seed: int | None = None,
    rows_at_once: int = 4096,
    output: pathlib.Path | None = None,
) -> dict[str, Any]:
    """All measurements of a trained model on a split, of JSON's types; see `scripts/evaluate.py`.

    Raises:
      Interrupted: see `measured`.
      Diverged: a term of an example is NaN or infinite.
      OSError: `output` can't be written.
    """
    trainer, params, step = trained
    model, (x, labels) = trainer.experiment.model, trainer.dataset.splits[split]
    key = trainer.keys.evaluate if seed is None else jax.random.key(seed)
    evaluate = evaluation.make_evaluator(model, preprocess=trainer.preprocess, rows_at_once=rows_at_once)
    surgery = None
    with measured(evaluate, params, key, x, num_importance_samples=num_importance_samples, folder=folder) as terms:
        outcome.require_finite(trainer.experiment, split, terms)
        if model.posterior.has_density:
            surgery = evaluation.elbo_surgery(model, params, key, x, preprocess=trainer.preprocess)
        mmd = evaluation.marginal_mmd(model, params, key, x, preprocess=trainer.preprocess)
        if output is not None:
            _write(output, terms, labels, has_density=model.posterior.has_density)
    result = {"split": split, "step": step, "num_importance_samples": num_importance_samples}
    result |= outcome.summarize(trainer, terms)
    return result | evaluation.summarize_surgery(surgery) | evaluation.with_stderr("squared_mmd", mmd)


def _write(path: pathlib.Path, terms: PerExample, labels: np.ndarray | None, *, has_density: bool) -> None:
    names = (*PerExample._fields, "elbo") if has_density else ("distortion", "embedding")
    arrays = {name: getattr(terms, name) for name in names} | {"labels": labels}
    with files.replacing(path) as partial:
        np.savez(partial, **{name: array for name, array in arrays.items() if array is not None})


@contextlib.contextmanager
def measured(
    evaluate: Evaluate, params: Params, key: Key, x: Rows, *, num_importance_samples: int, folder: pathlib.Path
) -> Iterator[PerExample]:
    """The terms of x from `evaluate`, with a bar; resumes from the terms that a stopped measurement saved in `folder`.

    Each measurement has its own file, which is kept until the `with` block is done. If the folder can't be written,
    nothing is saved.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGHUP came; the examples done were saved.
    """
    parts = _Parts(folder, _identity(params, key, x, num_importance_samples))
    done = parts.num_examples
    if done:
        console.say(f"resumed at example {done:,} of {len(x):,}")
    if done < len(x):
        _measure_rest(evaluate, params, key, x, num_importance_samples, parts)
    else:
        stopping.keep(stopping.kept_at(f"example {done:,}"))
    yield parts.joined()
    stopping.keep("")
    parts.forget()


def _measure_rest(
    evaluate: Evaluate, params: Params, key: Key, x: Rows, num_importance_samples: int, parts: "_Parts"
) -> None:
    done = parts.num_examples
    title = f"evaluate, {num_importance_samples:,} draws each,"
    with console.Count(len(x), initial=done, title=title, unit="example") as bar, stopping.collected() as received:

        def stop() -> None:
            saved = parts.save()
            raise stopping.Interrupted(received[0], f"example {parts.num_examples:,}", saved=saved)

        def report(part: PerExample) -> None:
            parts.add(part)
            bar.add(len(part.distortion))
            if received:
                stop()

        evaluate(params, key, x, num_importance_samples=num_importance_samples, start=done, report=report)
        if parts.save():
            stopping.keep(stopping.kept_at(f"example {parts.num_examples:,}"))
        if received:  # while the last terms were saved
            stop()


def _identity(params: Params, key: Key, x: Rows, num_importance_samples: int) -> str:
    """A digest of everything that determines the numbers."""
    of_examples = hashlib.sha256()
    for piece in data.pieces(x):
        of_examples.update(np.ascontiguousarray(piece).data)
    of_model = [digest(params), digest(jax.random.key_data(key))]
    said = [*of_model, of_examples.hexdigest(), x.shape, num_importance_samples, PerExample._fields]
    return hashlib.sha256(repr(said).encode()).hexdigest()


class _Parts:
    """The terms found so far, in memory and now and then in a file."""

    def __init__(self, folder: pathlib.Path, identity: str) -> None:
        self._path, self._identity = folder / f"evaluation-{identity[:12]}.partial.npz", identity
        self._writable = os.access(folder, os.W_OK)
        if not self._writable:
            console.say(f"{folder} can't be written: if this is stopped, it starts over")
        self._told = False  # whether a failure to save was reported
        self._parts: list[PerExample] = self._read()
        self._saved = time.monotonic()

    @property
    def num_examples(self) -> int:
        return sum(len(part.distortion) for part in self._parts)

    def add(self, part: PerExample) -> None:
        self._parts.append(part)
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> bool:
        """Saves the terms if there are any; returns whether it did."""
        if not self._writable or not self._parts:
            return False
        arrays = {name: a for name, a in self.joined()._asdict().items() if a is not None}
        beside = self._path.with_suffix(f".{os.getpid()}.tmp.npz")  # another process may measure the same
        try:
            np.savez(beside, identity=self._identity, names=list(arrays), **arrays)
            beside.replace(self._path)
        except OSError as error:  # a failure to save does not lose what was measured
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            if not self._told:
                lost = "results since the last save are lost if this is stopped"
                console.say(f"{self._path} can't be written ({reason(error)}): {lost}")
            self._told, self._saved = True, time.monotonic()
            return False
        self._saved = time.monotonic()
        return True

    def joined(self) -> PerExample:
        return PerExample.joined(self._parts)

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _read(self) -> list[PerExample]:
        """The terms in the file if it is of this measurement; a damaged file is ignored."""
        try:
            with np.load(io.BytesIO(self._path.read_bytes()), allow_pickle=False) as arrays:
                if str(arrays["identity"]) != self._identity:
                    return []
                values = dict.fromkeys(PerExample._fields) | {name: arrays[name] for name in arrays["names"].tolist()}
        except Exception:  # what a damaged file raises has no end
            return []
        return [PerExample(**values)]
