"""The explorer: a page on the loopback address for walking through and editing a trained model's latent space.

`Latent` is the model behind the page and does not depend on it; `Page` draws it with Bokeh, once for each visitor.
"""

import importlib.resources
import signal
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.util import bind_sockets
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream
from tornado.web import ErrorHandler

from jaxvae.experiment.explorer.latent import Latent
from jaxvae.experiment.explorer.page import Page

__all__ = ["Latent", "Page", "run_until_stopped", "serve"]


def run_until_stopped(server: BaseServer) -> None:
    """Serves until SIGINT or SIGTERM comes."""
    loop = server.io_loop
    for number in (signal.SIGINT, signal.SIGTERM):
        # Python's own handlers run when the main thread wakes up, and a signal that is delivered to another thread, of
        # which JAX has many, does not wake it. The loop's handlers do run then.
        loop.asyncio_loop.add_signal_handler(number, loop.stop)
    server.start()
    loop.start()
    server.stop()


class _PromptServer(HTTPServer):
    """Sends small packets at once. Otherwise each waits until the last is acknowledged, and a picture has several."""

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        stream.set_nodelay(True)
        stream.set_nodelay = lambda value: None  # type: ignore[method-assign]  # tornado would undo it
        super().handle_stream(stream, address)


class _OwnPages(BokehTornado):
    """Answers this machine alone. A stranger's page reaches it under a name of theirs that they point to 127.0.0.1."""

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        if request.host_name.rstrip(".") not in ("127.0.0.1", "localhost"):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **options)


def serve(latent: Latent, *, port: int) -> BaseServer:
    """A server of the page on the loopback address, not yet started.

    Raises:
      OSError: the port is taken.
    """
    files = importlib.resources.files("jaxvae.experiment.explorer")
    template = files.joinpath("page.html.jinja").read_text(encoding="utf-8")

    def visit(document: Document) -> None:
        document.template = template
        document.title = f"The latent space of {latent.experiment.data.name}"
        for root in Page(latent).roots:
            document.add_root(root)

    sockets, port = bind_sockets("127.0.0.1", port)
    pages = _OwnPages(
        {"/": Application(FunctionHandler(visit))},
        extra_websocket_origins=[f"127.0.0.1:{port}", f"localhost:{port}"],
    )
    http = _PromptServer(pages)
    http.add_sockets(sockets)
    return BaseServer(IOLoop.current(), pages, http)
