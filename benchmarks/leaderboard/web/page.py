"""The page: a template, its styles, scripts and data in one file that needs no server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from benchmarks.leaderboard.published import NOTICE, PublishedTable, cell
from benchmarks.leaderboard.web.content import summary
from benchmarks.scoring.metrics import Metric

# In this order: later ones use what earlier ones define.
SCRIPTS = ("basics.js", "table.js", "chart.js", "pareto.js", "molecules.js", "movie.js", "main.js")
_ASSETS = files("benchmarks.leaderboard.web").joinpath("assets")


def render(content: Mapping[str, Any], published: Sequence[PublishedTable]) -> str:
    """The page as HTML; no string of a record can leave the place that it is put into."""
    style = _asset("page.css")
    script = "(() => {\n'use strict';\n" + "\n".join(map(_asset, SCRIPTS)) + "})();\n"
    return Template(_asset("page.html")).substitute(
        policy=escape(_policy(style, script)),
        style=style,
        script=script,
        data=_data(content),
        summary=escape(summary(content)),
        commits=escape(", ".join(content["commits"]) or "none"),
        metrics="\n".join(_metric(metric) for metric in Metric),
        notice=escape(NOTICE),
        published="\n".join(map(_published, published)),
    )


def _asset(name: str) -> str:
    return _ASSETS.joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing but this page's own style and script is ever run or loaded."""
    return (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _data(content: Mapping[str, Any]) -> str:
    """JSON for a script element, which only "<" could end."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _metric(metric: Metric) -> str:
    unit = {"1": "", "A^2": " (Å²; printed ×10⁻²)"}.get(metric.unit, f" ({metric.unit})")
    return f"<dt><code>{escape(metric)}</code></dt><dd>{escape(metric.description + unit)}</dd>"


def _published(table: PublishedTable) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{cell(value)}</td>" for value in values)
        + "</tr>"
        for name, values in table.errors.items()
    )
    unit = "10⁻² Å²" if table.unit == "A^2 x 1e-2" else "no unit"
    kind = {"fold": "fold", "molecule": "molecule", "figure": "figure"}[table.column_kind]
    return f"""<article class="published" id="published-{escape(table.id)}">
<h3>{escape(table.title)} <span class="badge">published</span></h3>
<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}, published">
<table><caption>{escape(table.metric)}, {unit}, by {kind}</caption>
<thead><tr><th scope="col">as printed</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<dl class="facts"><dt>Source</dt><dd>{escape(table.source)}.</dd>
<dt>Made by</dt><dd>{escape(table.protocol)}.</dd>
<dt>Caveat</dt><dd>{escape(table.caveat)}</dd></dl></article>"""
