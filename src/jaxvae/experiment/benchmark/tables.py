"""Rows as a table for reading, and their summary."""

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]

_NOTE = """\
Medians and quartiles over rounds, each of which measures everything in turn. Compile times are for the program of one
step (for evaluate, of one chunk of 64 draws). Products are the operations of matrix products and convolutions in the
jaxpr. XLA's operations and bytes are its own counts; of a loop (num_parts) it counts one iteration. The limit is the
larger of two times: the products at the rate of the square product of the same dtype, and XLA's bytes at the bandwidth
of main memory. The fraction is the limit divided by the time taken; above 1, bytes that XLA counts stayed in a cache.
The times of bound, gradient and generate include that of a call from Python."""


def tables(rows: Sequence[Row]) -> str:
    """All rows, by kind."""
    parts = [_limits(rows), _measured(rows), _NOTE] if _of(rows, "measured") else []
    for axis in dict.fromkeys(row["axis"] for row in rows if "axis" in row):
        parts.append(_compared(axis, [row for row in rows if row.get("axis") == axis]))
    return "\n\n".join(parts)


def summary(rows: Sequence[Row]) -> Row:
    """The medians alone."""
    measured = _of(rows, "measured")
    return {
        "limits": {row["name"]: row["per_second"]["median"] for row in _of(rows, "limit")},
        **{f"{row['name']}_{row['unit']}_per_second": row["per_second"]["median"] for row in measured},
        **{f"{row['name']}_fraction": row["fraction"]["median"] for row in measured},
        **{f"{row['name']}_binds": row["binds"] for row in measured},
        "compile_seconds": sum(row["lower_seconds"] + row["compile_seconds"] for row in measured),
        "ratios": _ratios(rows),
    }


def _ratios(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for row in _of(rows, "variant"):
        result.setdefault(row["axis"], {})[row["name"]] = row["ratio"]["median"]
    return result


def _limits(rows: Sequence[Row]) -> str:
    units = {"operations": "GFLOP/s", "bytes": "GB/s"}
    return _aligned(
        [
            ["limit", "", "quartiles", "of"],
            *(
                [r["name"], f"{r['per_second']['median'] / 1e9:,.1f} {units[r['unit']]}"]
                + [_quartiles(r["per_second"], 1e-9, ",.1f"), r["what"]]
                for r in _of(rows, "limit")
            ),
        ]
    )


def _measured(rows: Sequence[Row]) -> str:
    head = ["", "per second", "quartiles", "ms each", "fraction", "quartiles", "binds", "products", "XLA's", "bytes"]
    return _aligned(
        [
            [*head, "temp", "lower", "compile", "of"],
            *(
                [
                    r["name"],
                    f"{r['per_second']['median']:,.0f} {r['unit']}",
                    _quartiles(r["per_second"], 1.0, ",.0f"),
                    f"{1e3 * r['seconds']['median']:,.2f}",
                    f"{r['fraction']['median']:.2f}",
                    _quartiles(r["fraction"], 1.0, ".2f"),
                    r["binds"],
                    _giga(sum(r["product_flops"].values()), "GFLOP"),
                    _giga(r["xla_flops"], "GFLOP"),
                    _giga(r["xla_bytes"], "GB"),
                    _giga(r["temp_bytes"], "GB"),
                    f"{r['lower_seconds']:.2f} s",
                    f"{r['compile_seconds']:.2f} s",
                    r["what"],
                ]
                for r in _of(rows, "measured")
            ),
        ]
    )


def _compared(axis: str, rows: Sequence[Row]) -> str:
    variants = _of(rows, "variant")
    lines = [f"left out: {row['why']}" for row in _of(rows, "left out")]
    if variants:
        table = [
            [r["name"], f"{r['steps_per_second']['median']:,.1f}", _quartiles(r["steps_per_second"], 1.0, ",.1f")]
            + [f"{r['ratio']['median']:.3f}", _quartiles(r["ratio"], 1.0, ".3f")]
            for r in variants
        ]
        head = [axis, "steps/s", "quartiles", f"times {variants[0]['against']}", "quartiles"]
        lines = [_aligned([head, *table]), *lines]
    else:
        lines = [axis, *lines]
    return "\n".join(lines)


def _of(rows: Iterable[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _quartiles(spread: Row, scale: float, how: str) -> str:
    return f"{scale * spread['low']:{how}} to {scale * spread['high']:{how}}"


def _giga(number: float | None, unit: str) -> str:
    return "?" if number is None else f"{number / 1e9:.3g} {unit}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns, two spaces apart; the first and the last are aligned to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    last = len(widths) - 1

    def line(cells: Sequence[str]) -> str:
        placed = [
            c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(placed).rstrip()

    return "\n".join(line(cells) for cells in lines)
