"""`scripts/explore.py`."""

import dataclasses
import socket
from collections.abc import Callable, Sequence

from jaxvae.checks import require_number
from jaxvae.experiment import restoring
from jaxvae.experiment.command.parsing import OfRun, parse_of_run
from jaxvae.experiment.command.running import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExploreCommand(OfRun):
    """Walk through the latent space of a trained model on a page in the browser, served on this machine alone.

    The page has a map to click on, a slider for each latent, two examples to interpolate between, and attributes to
    add. Ctrl-C ends it.
    """

    port: int = 5006
    """The port on 127.0.0.1; 0: any that is free."""

    def __post_init__(self) -> None:
        require_number(self, "port", low=0, high=65535, integer=True)


def explore_main(argv: Sequence[str] | None = None) -> int:
    return run_command(_prepare, argv)


def _prepare(argv: Sequence[str]) -> Callable[[], None]:
    from jaxvae.experiment import explorer

    command = parse_of_run(ExploreCommand, argv)
    _check_port(command.port)
    trained = restoring.reopen(command.workdir, data_dir=command.data_dir)

    def work() -> None:
        server = explorer.serve(explorer.Latent(trained), port=command.port)
        print(f"http://127.0.0.1:{server.port}/  (Ctrl-C to stop)", flush=True)
        explorer.run_until_stopped(server)

    return work


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(
                f"--port={port} can't be used ({error.strerror}); write another, or 0 for any that is free"
            ) from None
