"""Variants of the training step, to be compared in one process: each axis is a function from a trainer to its variants.

A new axis is one more function in `AXES`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from jaxvae import training
from jaxvae.estimators import DoublyReparameterized, Estimator, Pathwise, StickingTheLanding
from jaxvae.experiment.benchmark import subjects
from jaxvae.experiment.benchmark.timing import Run, seconds_of
from jaxvae.experiment.session import Trainer
from jaxvae.networks import compute_of
from jaxvae.parallel import OnMesh, OnOneDevice

_DISPATCHES = (1, 10, 100, 1000)
_ESTIMATORS: tuple[Estimator, ...] = (Pathwise(), StickingTheLanding(), DoublyReparameterized())


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of taking training steps."""

    name: str
    run: Run
    num_steps: int = 1  # taken in one repetition


class Axis(NamedTuple):
    """Variants that differ in one thing."""

    variants: list[Variant]  # the others are compared with the first
    left_out: list[str]  # a line for each variant that is impossible here


def dispatch(trainer: Trainer, seconds: float) -> Axis:
    """The number of steps in a dispatch: fused in a loop on the device, against one by one."""
    session, batches = trainer.new_session(), subjects.resident(trainer)
    fused, one_by_one = (trainer.make_advance(fused=fused) for fused in (True, False))

    def variant(name: str, advance: training.Advance, num: int) -> Variant:
        return Variant(name, subjects.training_run(trainer, advance, session, batches, dispatch=num), num)

    variants, left_out = [variant("one by one", one_by_one, 1)], []
    first = variant("1 fused", fused, 1)
    seconds_of(first.run)  # it compiles
    of_step = seconds_of(first.run)
    for num in _DISPATCHES:
        if num * of_step > seconds:
            left_out.append(f"{num:,} fused: a dispatch would take {num * of_step:.1f} s; write a larger --seconds")
        else:
            variants.append(variant(f"{num:,} fused", fused, num))
    return Axis(variants, left_out)


def estimator(trainer: Trainer, seconds: float) -> Axis:
    """The config's gradient estimator, and the others that its objective allows."""
    experiment, session, batches = trainer.experiment, trainer.new_session(), subjects.resident(trainer)
    own = experiment.estimator
    variants, left_out = [], []
    for choice in (own, *(e for e in _ESTIMATORS if e != own)):
        name = type(choice).__name__
        try:
            choice.check(experiment.objective, experiment.model.posterior)
        except ValueError as error:
            left_out.append(f"{name}: {error}")
            continue
        other = dataclasses.replace(trainer, experiment=dataclasses.replace(experiment, estimator=choice))
        variants.append(Variant(name, subjects.training_run(other, other.make_advance(), session, batches)))
    return Axis(variants, left_out)


def devices(trainer: Trainer, seconds: float) -> Axis:
    """One device, and all devices."""
    num, experiment, session = jax.local_device_count(), trainer.experiment, trainer.new_session()
    if num == 1:
        return Axis([], ["there is only one device"])
    mesh, variants = OnMesh.of(jax.local_devices()), []
    try:
        mesh.check(batch_size=experiment.batch_size, num_parts=experiment.num_parts)
    except ValueError as error:
        return Axis([], [f"{num} devices: {error}"])
    for placement in (OnOneDevice(), mesh):
        other = dataclasses.replace(trainer, placement=placement)
        run = subjects.training_run(other, other.make_advance(), session, subjects.resident(other))
        variants.append(Variant(f"{placement.num_devices} device(s)", run))
    return Axis(variants, [])


def precision(trainer: Trainer, seconds: float) -> Axis:
    """The precision in which products are computed."""
    experiment, session, batches = trainer.experiment, trainer.new_session(), subjects.resident(trainer)
    networks = {name: getattr(experiment.model, name) for name in ("encoder", "decoder")}
    fixed = [type(network).__name__ for network in networks.values() if compute_of(network) is None]
    if fixed:
        return Axis([], [f"{name} has no field `compute`" for name in fixed])
    variants = []
    for compute in ("float32", "bfloat16"):
        model = dataclasses.replace(experiment.model, **{n: net.clone(compute=compute) for n, net in networks.items()})
        other = dataclasses.replace(trainer, experiment=dataclasses.replace(experiment, model=model))
        variants.append(Variant(compute, subjects.training_run(other, other.make_advance(), session, batches)))
    return Axis(variants, [])


AXES: Mapping[str, Callable[[Trainer, float], Axis]] = {
    "dispatch": dispatch,
    "estimator": estimator,
    "devices": devices,
    "precision": precision,
}
