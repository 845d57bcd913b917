"""The style sheet of the HTML pages, for light and dark screens."""

from __future__ import annotations

from detector.metrics.errors import CAUSES

STYLE = """
:root { --ink: #1c2430; --soft: #5d6b7d; --line: #dfe4ea; --page: #f5f6f8; --card: #fff; --accent: #2f6fde;
  --right: #1a9850; --classification: #8e44ad; --localisation: #e67e22; --both: #c2185b; --duplicate: #b59b00;
  --background: #d62728; --missed: #607080; --truth: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b8; --line: #323b48; --page: #14181f;
  --card: #1c222b; --accent: #6ea0ff; --missed: #8fa1b5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0 0 4px; } h3 { font-size: 14px; margin: 0; }
p { margin: 0 0 12px; color: var(--soft); max-width: 86ch; } code { font-size: 13px; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin-top: 18px; overflow-x: auto; }
nav { display: flex; flex-wrap: wrap; gap: 0 14px; margin: 12px 0 0; font-size: 14px; }
nav a { color: var(--accent); text-decoration: none; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 12px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td.text, th.text { text-align: left; }
th { color: var(--soft); font-weight: 600; } tr.total td { font-weight: 700; border-bottom: 0; }
.tiles, .grid { display: grid; gap: 14px; } .tiles { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 25px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(240px, 100%), 1fr)); }
.worst { grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); }
.crops { grid-template-columns: repeat(auto-fill, minmax(min(220px, 100%), 1fr)); }
.columns { display: flex; flex-wrap: wrap; gap: 36px; } figure { margin: 0; } figcaption { font-size: 13px;
  color: var(--soft); margin-top: 4px; } .key { font-size: 13px; color: var(--soft); }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 5px 0 14px; }
svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .value, svg .tick { fill: var(--soft); } svg .tick { font-size: 11px; } svg .count { font-size: 10.5px; }
svg .count.strong { fill: #fff; } svg .bar { fill: var(--accent); fill-opacity: .8; }
svg .frame { fill: none; stroke: var(--line); } rect.grid, svg .grid { fill: none; stroke: var(--line); }
svg .ideal { stroke: var(--soft); stroke-dasharray: 4 4; } svg .curve { fill: none; stroke: var(--accent);
  stroke-width: 1.6; } svg .area { fill: var(--accent); fill-opacity: .13; }
svg .agree { fill: var(--right); } svg .differ { fill: var(--background); }
svg .picture { border-radius: 6px; } .mark { fill: none !important; stroke-width: 2.4; }
@media (max-width: 640px) { main { padding: 20px 12px 40px; } section { padding: 16px 14px; }
  svg:not(.picture) { max-width: max(100%, 420px); } /* a plot scrolls: its text stays readable */ }
.mark.truth { stroke: var(--truth); stroke-width: 1.6; stroke-dasharray: 5 4; }
text.name { font-weight: 700; paint-order: stroke; stroke: #000c; stroke-width: 3px; stroke-linejoin: round; }
svg text.name.truth { fill: var(--truth); } svg text.name.missed { fill: #cfe0ff; }
"""
COLOURED = ("right", *CAUSES)
STYLE += "".join(
    f"svg rect.{name}, .key i.{name} {{ fill: var(--{name}); background: var(--{name}); }} "
    f".mark.{name} {{ stroke: var(--{name}); }} svg text.name.{name} {{ fill: #fff; }}\n"
    for name in COLOURED
)
STYLE += "".join(
    f"svg .line{number} {{ stroke: {colour}; }} svg .dot.line{number} {{ fill: {colour}; stroke: none; }}\n"
    for number, colour in enumerate(("#2f6fde", "#e67e22", "#1a9850", "#c2185b", "#8e44ad", "#00a3a3"))
)
STYLE += "svg .line { fill: none; stroke-width: 1.6; }\n"
STYLE += ".mark.missed { stroke: #7fb0ff; stroke-dasharray: 5 4; stroke-width: 2.6; }\n"
