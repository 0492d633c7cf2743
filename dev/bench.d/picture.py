"""Horizontal bars as SVG, readable on light and on dark pages."""

from html import escape

WIDTH, LEFT, RIGHT, TOP = 760, 170, 90, 78
BAR, GAP = 11, 10
# Told apart on white and on black, and by most who see colours differently (Okabe and Ito, 2008).
COLOURS = ["#0072b2", "#d55e00", "#e69f00", "#009e73", "#999999"]
STYLE = """<style>
.ink { fill: #24292f } .axis { stroke: #24292f }
@media (prefers-color-scheme: dark) { .ink { fill: #d0d7de } .axis { stroke: #d0d7de } }
</style>"""


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(title, groups, names):
    """Rows of (label, [(series, value, least, most)]); each row is scaled to its best value."""
    series = list(dict.fromkeys(s for _, row in groups for s, *_ in row))
    colour = {s: COLOURS[n % len(COLOURS)] for n, s in enumerate(series)}
    height = TOP + sum(len(row) * BAR + GAP for _, row in groups) + 16
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        STYLE,
        f'<text class="ink" x="16" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for n, s in enumerate(series):
        x = 16 + n * 150
        out.append(f'<rect fill="{colour[s]}" x="{x}" y="40" width="14" height="10"/>')
        out.append(f'<text class="ink" x="{x + 20}" y="50">{escape(names.get(s, s))}</text>')
    y = TOP
    for label, row in groups:
        best = max((most for *_, most in row), default=1) or 1
        scale = (WIDTH - LEFT - RIGHT) / best
        middle = y + len(row) * BAR / 2 + 4
        out.append(f'<text class="ink" text-anchor="end" x="{LEFT - 10}" y="{middle:.0f}">{escape(label)}</text>')
        for s, value, least, most in row:
            out.append(f'<rect fill="{colour[s]}" x="{LEFT}" y="{y}" width="{max(value * scale, 1):.1f}" height="{BAR - 2}"/>')
            line = y + (BAR - 2) / 2
            out.append(f'<line class="axis" x1="{LEFT + least * scale:.1f}" y1="{line}" x2="{LEFT + most * scale:.1f}" y2="{line}"/>')
            out.append(f'<text class="ink" font-size="10" x="{LEFT + most * scale + 6:.1f}" y="{y + BAR - 2}">{number(value)}</text>')
            y += BAR
        y += GAP
    return "\n".join([*out, "</svg>"]) + "\n"
