"""The explorer: the code behind the page, and the page itself in a browser."""

import dataclasses
import re
import shutil
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from conftest import ROOT

import jaxvae as jv
from jaxvae.data import Dataset, Split
from jaxvae.experiment import command, outcome
from jaxvae.experiment.restoring import Trained
from jaxvae.experiment.session import Trainer
from jaxvae.typing import Support

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    quick = ["--config.num_epochs=4", "--config.eval_every_epochs=4", "--config.model.latent_dim=3"]
    hidden = ["--config.model.encoder.hidden=16", "--config.model.decoder.hidden=16"]
    config = f"--config={ROOT / 'configs' / 'digits.py'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "picture", lambda *args: None)  # figures are not needed
        assert command.train_main([config, f"--workdir={folder}", *quick, *hidden]) == 0
    return folder


@pytest.fixture(scope="module")
def latent(run):
    from jaxvae.experiment import explorer
    from jaxvae.experiment.restoring import reopen

    return explorer.Latent(reopen(run))


def test_a_decoded_code_is_the_models(latent):
    params, model = latent._params, latent.experiment.model
    expected = model.decode(params, latent.codes[3].astype(np.float32)).mean
    np.testing.assert_allclose(latent.decode(latent.codes[3]), expected, atol=1e-6)
    start = time.process_time()
    for i in range(20):
        latent.decode(latent.codes[i])
    assert (time.process_time() - start) / 20 < 0.05


def test_codes_of_length_1_keep_it(latent):
    networks = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}
    sphere = {"posterior": jv.VonMisesFisher(), "prior": jv.UniformSphere()}
    model = jv.VAE(latent_dim=3, event_shape=(8, 8, 1), **sphere, **networks)
    from jaxvae.experiment import explorer

    config = jv.Experiment(model=model, data=jv.Data(), batch_size=10)
    trainer = Trainer.of(config, jv.data.load(config.data))
    on_sphere = explorer.Latent(Trained(trainer, model.init(jax.random.key(0)), 0))
    np.testing.assert_allclose(on_sphere.nearest_code(np.array([0.0, 3.0, 4.0])), [0.0, 0.6, 0.8])
    assert on_sphere.ranges == [(-1.0, 1.0)] * 3
    np.testing.assert_array_equal(latent.nearest_code(np.array([0.0, 3.0, 4.0])), [0.0, 3.0, 4.0])


@pytest.mark.parametrize(("event", "shown"), [((6,), np.nan), ((2, 3, 1), 0.0)])
def test_what_is_missing_is_a_gap_or_dark(event, shown):
    from jaxvae.experiment import explorer

    networks = {"encoder": jv.MLP(hidden=(4,)), "decoder": jv.MLP(hidden=(4,))}
    likelihood = jv.Incomplete(likelihood=jv.Gaussian(variance=jv.Fixed(value=1.0)))
    model = jv.VAE(latent_dim=2, event_shape=event, likelihood=likelihood, **networks)
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    x[:, 2] = np.nan
    dataset = Dataset(Split(x.reshape(30, *event), None), None, None, Support(-9.0, 9.0, missing=True))
    trainer = Trainer.of(jv.Experiment(model=model, data=jv.Data(preprocess=jv.Raw()), batch_size=10), dataset)
    latent = explorer.Latent(Trained(trainer, jax.jit(model.init)(jax.random.key(1)), 0))
    assert np.isfinite(latent.decode(latent.codes[0])).all()
    example = latent.example(3).ravel()
    assert np.isfinite(example[[0, 1, 3, 4, 5]]).all()
    np.testing.assert_equal(example[2], shown)


def test_the_map_and_the_paths(latent):
    point = latent.plane.project(latent.codes[7:8])[0]
    assert latent.nearest(point) == 7
    np.testing.assert_allclose(latent.plane.project(latent.plane.lift(point)[None])[0], point, atol=1e-9)
    for arc in (False, True):
        np.testing.assert_allclose(latent.between(2, 5, 0.0, arc=arc), latent.codes[2], atol=1e-6)
        np.testing.assert_allclose(latent.between(2, 5, 1.0, arc=arc), latent.codes[5], atol=1e-6)
    np.testing.assert_allclose(latent.between(2, 5, 0.5, arc=False), latent.codes[[2, 5]].mean(0), atol=1e-6)
    vector = latent.codes[latent.labels == 4].mean(0) - latent.codes[latent.labels != 4].mean(0)
    np.testing.assert_allclose(latent.attributes["4"], vector, atol=1e-5)
    for (low, high), column in zip(latent.ranges, latent.codes.T, strict=True):
        assert low <= min(-3, column.min())
        assert high >= max(3, column.max())


def test_what_is_moved_moves_the_rest(latent):
    from jaxvae.experiment.explorer import Page

    page = Page(latent)
    widgets = {root.name: root for root in page.roots}

    def picture():
        return np.array(page._image.renderers[0].data_source.data["image"][0])[::-1, :, None]

    widgets["z1"].value = 2.0
    z = np.array([latent.codes[0][0], 2.0, latent.codes[0][2]])
    np.testing.assert_allclose(picture(), latent.decode(z), atol=1e-6)
    widgets["strength"].value = 1.5
    z = z + 1.5 * latent.attributes["0"]
    np.testing.assert_allclose(picture(), latent.decode(z), atol=1e-6)
    widgets["strength"].value = 0.0  # and back again
    z = z - 1.5 * latent.attributes["0"]
    np.testing.assert_allclose([widgets[f"z{d}"].value for d in range(3)], z, atol=1e-6)
    page._move(np.array([9.0, 0.0, 0.0]))  # beyond the end of its slider
    widgets["z1"].value = 0.5
    np.testing.assert_allclose(page._z, [9.0, 0.5, 0.0])
    widgets["example_a"].value, widgets["example_b"].value = 4, 9
    widgets["t"].value = 1.0
    np.testing.assert_allclose(picture(), latent.decode(latent.codes[9]), atol=1e-5)


@pytest.mark.parametrize("step", [0.1, 1000.0])
def test_labels_that_are_missing_or_a_quantity(step, latent, monkeypatch):
    """A cloud of points for each class, or one for all, and one for points without a label."""
    from jaxvae.experiment.explorer.page import Page

    labels = np.floor(step * np.arange(len(latent.codes)) / len(latent.codes) * 20)  # of two classes, or all different
    labels[3] = np.nan
    monkeypatch.setattr(latent, "labels", labels)
    *clouds, unlabelled, _ = [r for r in Page(latent)._map.renderers if type(r.glyph).__name__ == "Scatter"]
    sizes = [len(r.data_source.data["x"]) for r in clouds]
    assert len(sizes) == (2 if step == 0.1 else 1)
    assert sum(sizes) == len(labels) - 1
    assert len(unlabelled.data_source.data["x"]) == 1


def test_the_colours_of_numbers_have_a_scale(latent, monkeypatch):
    from bokeh.models import ColorBar
    from bokeh.palettes import Turbo256

    from jaxvae.experiment.explorer.page import Page

    labels = np.linspace(2.0, 4.0, len(latent.codes))
    monkeypatch.setattr(latent, "labels", labels)
    plot = Page(latent)._map
    (bar,) = (shown for shown in plot.right if isinstance(shown, ColorBar))
    assert (bar.color_mapper.low, bar.color_mapper.high) == (2.0, 4.0)
    colours = plot.renderers[0].data_source.data["fill_color"]
    assert (colours[0], colours[-1]) == (Turbo256[0], Turbo256[-1])


def test_pictures_of_colours_and_of_vectors():
    from jaxvae.experiment.explorer.page import _picture

    event = np.zeros((2, 3, 3))
    event[0, 1] = [1.0, 0.5, 0.0]  # in the upper row
    plot, show = _picture(event, name="x", size=100, units="")
    source = plot.renderers[0].data_source
    rgba = source.data["image"][0].view(np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(rgba[1, 1], [255, 128, 0, 255])  # Bokeh counts rows from below
    show(1 - event)
    np.testing.assert_array_equal(source.data["image"][0].view(np.uint8).reshape(2, 3, 4)[0, 0], [255] * 4)
    plot, show = _picture(np.arange(5.0), name="x", size=100, units=", in standard units")
    assert plot.yaxis.axis_label == "value, in standard units"
    line = np.array([0.0, 1.0, np.nan, 9.0, np.nan])
    show(line)
    source = plot.renderers[0].data_source
    np.testing.assert_array_equal(source.data["y"], line)
    np.testing.assert_array_equal(source.data["dots"], [np.nan, np.nan, np.nan, 9.0, np.nan])


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver: apt install chromium-driver")
def test_a_slider_in_a_browser(run):
    """Moves the slider by its keys: the canvas changes, and the page itself measures the time."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    script = [sys.executable, ROOT / "scripts" / "explore.py", f"--workdir={run}", "--port=0"]
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1300,1000",
    ):
        options.add_argument(argument)
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        driver = None
        try:
            address = re.match(r"http://127\.0\.0\.1:\d+/", server.stdout.readline()).group(0)
            driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
            driver.set_script_timeout(20)
            driver.get(address)
            wait_for(lambda: driver.execute_script("return window.Bokeh?.documents[0]?.is_idle"))
            for source in driver.execute_script(
                "return performance.getEntriesByType('resource').map(e => e.name)"
            ):  # nothing is loaded from elsewhere
                assert source.startswith((address, "data:")), source

            before = driver.execute_script(PICTURE)
            driver.execute_script(FORGET)  # two decodings can take equally long
            handle = driver.execute_script(HANDLE, "z1")
            driver.execute_script("arguments[0].focus()", handle)
            value = driver.execute_script(VALUE, "z1")
            handle.send_keys(Keys.END)
            wait_for(lambda: driver.execute_script(PICTURE) != before)
            assert driver.execute_script(VALUE, "z1") > value
            wait_for(lambda: driver.execute_script(TOLD))
            milliseconds = float(re.search(r"decoded in ([\d.]+) ms", driver.execute_script(TOLD)).group(1))
            assert milliseconds < 50

            times = sorted(
                driver.execute_async_script(ROUND_TRIP, "z0", value) for value in np.linspace(-2, 2, 21).tolist()
            )
            print(f"from a moved slider to a new picture: median {times[10]:.0f} ms, worst {times[-1]:.0f} ms")
            assert times[10] < 50

            # a click on the map, an attribute, a draw
            before = driver.execute_script(PICTURE)
            buttons = driver.execute_script(BUTTON)
            buttons.click()
            wait_for(lambda: driver.execute_script(PICTURE) != before)
            before = driver.execute_script(PICTURE)
            driver.execute_script("Bokeh.documents[0].get_model_by_name('strength').value = 2")
            wait_for(lambda: driver.execute_script(PICTURE) != before)
            before = driver.execute_script(PICTURE)
            canvas = driver.execute_script(CANVAS, "map")
            webdriver.ActionChains(driver).move_to_element_with_offset(canvas, 30, 40).click().perform()
            wait_for(lambda: driver.execute_script(PICTURE) != before)
            assert driver.find_element(By.TAG_NAME, "h1").text == "The latent space of digits"
        finally:
            if driver is not None:
                driver.quit()
            server.terminate()
            try:
                assert server.wait(20) == 0
            finally:
                server.kill()


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in the browser"
        time.sleep(0.02)


_VIEW = "const view = name => Bokeh.index.find_one_by_id(Bokeh.documents[0].get_model_by_name(name).id);"
_DEEP = """
const deep = (root, selector) => {
  const found = root.querySelector(selector);
  if (found) return found;
  for (const child of root.querySelectorAll('*')) {
    if (child.shadowRoot) { const inner = deep(child.shadowRoot, selector); if (inner) return inner; }
  }
  return null;
};
"""
# What is drawn, not what was sent: the pixels of the canvas.
PICTURE = _VIEW + _DEEP + "return deep(view('decoded').el.shadowRoot ?? view('decoded').el, 'canvas').toDataURL();"
CANVAS = _VIEW + _DEEP + "return deep(view(arguments[0]).el.shadowRoot ?? view(arguments[0]).el, 'canvas');"
HANDLE = _VIEW + _DEEP + "return deep(view(arguments[0]).el.shadowRoot, '.noUi-handle');"
BUTTON = _VIEW + _DEEP + "return deep(view('prior').el.shadowRoot, 'button');"
VALUE = "return Bokeh.documents[0].get_model_by_name(arguments[0]).value;"
TOLD = "return Bokeh.documents[0].get_model_by_name('told').text;"
FORGET = "Bokeh.documents[0].get_model_by_name('told').text = '';"
ROUND_TRIP = """
const [name, value, done] = arguments;
const source = Bokeh.documents[0].get_model_by_name('decoded').renderers[0].data_source;
const start = performance.now();
const seen = () => { source.properties.data.change.disconnect(seen); done(performance.now() - start); };
source.properties.data.change.connect(seen);
Bokeh.documents[0].get_model_by_name(name).value = value;
"""


def test_names_are_text(latent, monkeypatch):
    import urllib.request

    from jaxvae.experiment import explorer

    data = dataclasses.replace(latent.experiment.data, name="<img src=x>.npz")
    monkeypatch.setattr(latent, "experiment", dataclasses.replace(latent.experiment, data=data))
    server = explorer.serve(latent, port=0)
    server.start()
    pages = []

    def fetch():
        pages.append(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/").read().decode())

    thread = threading.Thread(target=lambda: (fetch(), server.io_loop.add_callback(server.io_loop.stop)))
    thread.start()
    server.io_loop.start()
    thread.join()
    server.stop()
    assert "<img" not in pages[0]
    assert "&lt;img src=x&gt;.npz</h1>" in pages[0]


def test_a_strangers_page_is_not_answered(latent):
    """Under a name that a stranger points to this machine; a browser sends it as the host, and as the origin."""
    from tornado import httpclient, websocket

    from jaxvae.experiment import explorer

    server = explorer.serve(latent, port=0)
    server.start()
    loop, port = server.io_loop, server.port
    try:

        def status(host):
            request = httpclient.HTTPRequest(f"http://127.0.0.1:{port}/", headers={"Host": f"{host}:{port}"})
            fetch = httpclient.AsyncHTTPClient().fetch
            return loop.run_sync(lambda: fetch(request, raise_error=False), timeout=30).code

        assert [status(host) for host in ("127.0.0.1", "localhost", "evil.example")] == [200, 200, 403]
        headers = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
        request = httpclient.HTTPRequest(f"ws://127.0.0.1:{port}/ws", headers=headers)
        with pytest.raises(httpclient.HTTPClientError, match="403"):
            loop.run_sync(lambda: websocket.websocket_connect(request), timeout=30)
    finally:
        server.stop()


def test_mistakes_are_named(run, tmp_path, capsys):
    import socket

    assert command.explore_main([f"--workdir={tmp_path}"]) == 2
    assert "holds no run" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert command.explore_main([f"--workdir={run}", f"--port={taken.getsockname()[1]}"]) == 2
    assert "write another, or 0 for any that is free" in capsys.readouterr().err
