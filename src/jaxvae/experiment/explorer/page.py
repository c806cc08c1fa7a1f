"""One visitor's page, drawn by Bokeh."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import (
    Button,
    ColorBar,
    ColumnDataSource,
    Div,
    LinearColorMapper,
    RadioButtonGroup,
    Range1d,
    Select,
    Slider,
    Spinner,
    UIElement,
)
from bokeh.palettes import Category10, Greys256, Turbo256
from bokeh.plotting import figure

from jaxvae.experiment.explorer.latent import Latent
from jaxvae.experiment.seeing import units_of
from jaxvae.plots import NO_LABEL, alone, classes_of, is_image, is_quantity

_WIDGETS = ":host { font-size: 15px; } .bk-slider-title, label { font-size: 15px; }"


def _picture(event: np.ndarray, *, name: str, size: int, units: str) -> tuple[Any, Callable[[np.ndarray], None]]:
    """A figure of one example, as an image or a line, and a function that shows another example in it."""
    source = ColumnDataSource()
    if is_image(event.shape):
        height, width = event.shape[:2]
        plot = figure(
            width=size, height=round(size * height / width), match_aspect=True, name=name,
            x_range=Range1d(0, width), y_range=Range1d(0, height), toolbar_location=None, tools="",
        )  # fmt: skip
        plot.axis.visible = plot.grid.visible = False

        def show(event: np.ndarray) -> None:
            unit = np.clip(event[::-1], 0.0, 1.0)
            if event.shape[-1] == 1:
                source.data = {"image": [unit[..., 0].astype(np.float32)]}
            else:
                rgba = np.full((height, width, 4), 255, np.uint8)
                rgba[..., : event.shape[-1]] = np.round(255 * unit)
                source.data = {"image": [rgba.view(np.uint32)[..., 0]]}

        show(event)
        if event.shape[-1] == 1:
            mapper = LinearColorMapper(palette=Greys256, low=0.0, high=1.0)
            plot.image(source=source, image="image", x=0, y=0, dw=width, dh=height, color_mapper=mapper)
        else:
            plot.image_rgba(source=source, image="image", x=0, y=0, dw=width, dh=height)
        return plot, show

    def show_line(event: np.ndarray) -> None:
        line = event.ravel()
        dots = np.full(line.shape, np.nan)
        dots[alone(line)] = line[alone(line)]
        source.data = {"x": np.arange(line.size), "y": line, "dots": dots}

    show_line(event)
    plot = figure(width=size, height=size * 2 // 3, name=name, toolbar_location=None, tools="")
    plot.line(source=source, x="x", y="y", color="#0072B2")
    plot.scatter(source=source, x="x", y="dots", color="#0072B2", size=5)
    plot.xaxis.axis_label, plot.yaxis.axis_label = "entry", f"value{units}"
    return plot, show_line


class Page:
    """One visitor's page, and the reactions to its widgets."""

    def __init__(self, latent: Latent) -> None:
        self._latent = latent
        self._z = latent.codes[0].copy()
        self._base = self._z.copy()  # what attributes are added to
        self._quiet = False  # True while the page itself moves its widgets
        self._draws = 0
        self._make_map()
        self._make_widgets()

    @property
    def roots(self) -> list[UIElement]:
        """The widgets, named as their places in `page.html.jinja`."""
        ends = [self._plot_a, self._plot_b, self._a, self._b, self._path, self._t]
        attributes = [self._attribute, self._strength] if self._latent.attributes else []
        return [self._map, self._click, self._image, self._told, self._prior, *ends, *attributes, *self._sliders]

    def _make_map(self) -> None:
        latent = self._latent
        points = latent.plane.project(latent.codes)
        labels = np.zeros(len(points), int) if latent.labels is None else latent.labels
        classes, known = classes_of(labels), labels == labels
        self._map = figure(
            name="map", height=420, sizing_mode="stretch_width", max_width=640, tools="tap,wheel_zoom,pan,reset",
            x_axis_label=latent.plane.names[0], y_axis_label=latent.plane.names[1], toolbar_location="above",
        )  # fmt: skip

        def put(these: np.ndarray, colour: str | list[str], **style: str) -> None:
            glyph = self._map.scatter(*points[these].T, size=5, alpha=0.6, color=colour, line_width=0, **style)
            glyph.nonselection_glyph = None

        if latent.labels is None:
            put(known, Category10[10][0])
        elif len(classes) <= 20 and not is_quantity(labels):
            palette = Category10[10] if len(classes) <= 10 else Turbo256
            for i, label in enumerate(classes):
                colour = palette[i * (len(palette) - 1) // max(1, len(classes) - 1)]
                put(labels == label, colour, legend_label=str(label))
        else:
            numbers = np.issubdtype(labels.dtype, np.number)
            at = labels[known] if numbers else np.searchsorted(classes, labels[known])
            low, high = (float(end(at[np.isfinite(at)])) for end in (np.min, np.max))
            shades = np.rint(255 * (np.clip(at, low, high) - low) / max(high - low, 1e-30)).astype(int)
            put(known, [Turbo256[shade] for shade in shades])
            if numbers:
                mapper = LinearColorMapper(palette=Turbo256, low=low, high=high)
                self._map.add_layout(ColorBar(color_mapper=mapper, title="label"), "right")
        put(~known, NO_LABEL)
        if self._map.legend:
            self._map.add_layout(self._map.legend[0], "right")
            self._map.legend.label_text_font_size = "12px"
            self._map.legend.padding = 2
        self._here = ColumnDataSource(data={"x": [0.0], "y": [0.0]})
        self._ends = ColumnDataSource(data={"x": [0.0, 0.0], "y": [0.0, 0.0], "text": ["A", "B"]})
        self._map.line(source=self._ends, x="x", y="y", color="#666666", line_dash="dotted")
        self._map.text(source=self._ends, x="x", y="y", text="text", text_font_style="bold", text_font_size="16px")
        self._map.scatter(source=self._here, x="x", y="y", size=16, marker="cross", color="black", line_width=3)
        self._map.on_event(Tap, self._tapped)

    def _make_widgets(self) -> None:
        latent, units = self._latent, units_of(self._latent.experiment)
        self._click = RadioButtonGroup(labels=["A click decodes", "picks A", "picks B"], active=0, name="click")
        self._image, self._show = _picture(latent.decode(self._z), name="decoded", size=280, units=units)
        self._told = Div(name="told", text="")
        self._prior = Button(label="Draw z from the prior", name="prior", width=240)
        self._prior.on_click(self._drawn)
        self._sliders: list[UIElement] = []
        for d, (low, high) in enumerate(latent.ranges):
            slider = Slider(
                start=low, end=high, value=float(self._z[d]), step=0.05, title=f"z[{d}]", name=f"z{d}",
                stylesheets=[_WIDGETS], sizing_mode="stretch_width",
            )  # fmt: skip
            slider.on_change("value", self._slid(d))
            self._sliders.append(slider)
        last = len(latent.codes) - 1
        end = {"low": 0, "high": last, "step": 1, "width": 140}
        self._a = Spinner(title=f"A, 0 to {last}", value=0, name="example_a", **end)
        self._b = Spinner(title=f"B, 0 to {last}", value=min(1, last), name="example_b", **end)
        self._plot_a, self._show_a = _picture(latent.example(0), name="a", size=110, units=units)
        self._plot_b, self._show_b = _picture(latent.example(min(1, last)), name="b", size=110, units=units)
        self._path = RadioButtonGroup(labels=["line", "arc"], active=0, name="path")
        self._t = Slider(
            start=0.0, end=1.0, value=0.0, step=0.01, title="from A to B", name="t",
            stylesheets=[_WIDGETS], sizing_mode="stretch_width", max_width=320,
        )  # fmt: skip
        for widget, attribute in ((self._a, "value"), (self._b, "value"), (self._path, "active"), (self._t, "value")):
            widget.on_change(attribute, self._went)
        names = list(latent.attributes)
        self._attribute = Select(
            title="label", options=names, value=names[0] if names else "", width=140, name="attribute"
        )
        self._strength = Slider(
            start=-2.0, end=2.0, value=0.0, step=0.05, title="strength", name="strength",
            stylesheets=[_WIDGETS], sizing_mode="stretch_width", max_width=320,
        )  # fmt: skip
        self._attribute.on_change("value", self._chose)
        self._strength.on_change("value", self._added)
        self._mark_ends()
        self._move(self._z)

    def _move(self, z: np.ndarray, *, keep_base: bool = False) -> None:
        """Moves to another z: updates the picture first, then all widgets that show z."""
        start = time.perf_counter()
        self._z = self._latent.nearest_code(np.asarray(z, np.float64))
        event = self._latent.decode(self._z)
        milliseconds = 1000 * (time.perf_counter() - start)
        self._show(event)
        self._told.text = f"decoded in {milliseconds:.1f} ms"
        x, y = self._latent.plane.project(self._z[None])[0]
        self._here.data = {"x": [float(x)], "y": [float(y)]}
        self._quiet = True
        for slider, value in zip(self._sliders, self._z.tolist(), strict=True):
            if abs(slider.value - value) > 1e-9:
                slider.value = min(max(value, slider.start), slider.end)
        if not keep_base:
            self._base = self._z.copy()
            self._strength.value = 0.0
        self._quiet = False

    def _mark_ends(self) -> None:
        a, b = int(self._a.value), int(self._b.value)
        points = self._latent.plane.project(self._latent.codes[[a, b]])
        self._ends.data = {"x": points[:, 0].tolist(), "y": points[:, 1].tolist(), "text": ["A", "B"]}
        self._show_a(self._latent.example(a))
        self._show_b(self._latent.example(b))

    def _slid(self, d: int) -> Callable[[str, Any, Any], None]:
        def slid(attr: str, old: Any, new: Any) -> None:
            if not self._quiet:  # only this entry, since another may lie beyond its slider's end
                self._move(np.where(np.arange(len(self._z)) == d, new, self._z))

        return slid

    def _tapped(self, event: Any) -> None:
        point = np.array([event.x, event.y])
        if self._click.active == 0:
            self._move(self._latent.plane.lift(point))
        else:
            (self._a if self._click.active == 1 else self._b).value = self._latent.nearest(point)

    def _drawn(self) -> None:
        self._draws += 1
        self._move(self._latent.draw(self._draws))

    def _went(self, attr: str, old: Any, new: Any) -> None:
        last = len(self._latent.codes) - 1
        if not all(isinstance(n, int | float) and 0 <= n <= last for n in (self._a.value, self._b.value)):
            return  # a field is being edited
        self._mark_ends()
        arc = self._path.active == 1
        self._move(self._latent.between(int(self._a.value), int(self._b.value), self._t.value, arc=arc))

    def _chose(self, attr: str, old: Any, new: Any) -> None:
        self._move(self._z)  # the next attribute is added to the current z

    def _added(self, attr: str, old: Any, new: Any) -> None:
        if not self._quiet:
            vector = self._latent.attributes[self._attribute.value]
            self._move(self._base + self._strength.value * vector, keep_base=True)
