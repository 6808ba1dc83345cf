"""A heat map of experts by node and layer, as SVG, from a coordinator's status.

Each panel is one status; in it a block for each node, a column for each layer, and
in a column the experts that the node holds, hottest first: the darker, the more of
the layer's tokens are this copy's.  Under each column stands a bar: the node's
share of the layer, with a line at what would be even.
"""
import html

CELL, GAP, ROW = 9, 14, 3
COLOURS = ["#f5f2ec", "#fde7c4", "#fbc97f", "#f59f4a", "#e4672d", "#b5301f",
           "#6b0f1a"]
STEPS = [0.15, 0.4, 0.9, 2.0, 4.0, 8.0]  # of an expert's even share


def _held(digits):
    units = []
    for i, digit in enumerate(digits):
        units += [4 * i + b for b in range(4) if int(digit, 16) >> b & 1]
    return units


def _columns(status):
    """{node: [[share of the layer, hottest first] for each layer]}"""
    columns = {}
    layers = [l for l in status["layers"] if l.get("load")]
    for number, layer in enumerate(layers):
        holders = [0] * len(layer["load"])
        held = {n: _held(d) for n, d in layer["held"].items()}
        for units in held.values():
            for unit in units:
                holders[unit] += 1
        total = sum(layer["load"]) or 1
        for node, units in held.items():
            shares = sorted((layer["load"][u] / holders[u] / total
                             for u in units), reverse=True)
            columns.setdefault(node, [[] for _ in layers])[number] = shares
    return columns


def _colour(share, even):
    return COLOURS[sum(share / even > step for step in STEPS)]


def _text(x, y, text, size=11, anchor="start"):
    return ('<text x="%g" y="%g" font-size="%d" text-anchor="%s">%s</text>' %
            (x, y, size, anchor, html.escape(text)))


def _bar(x, y, width, share, even):
    height = 22 * share / even
    return ('<rect x="%g" y="%g" width="%g" height="%.1f" fill="%s"/>' %
            (x, y + 44 - height, width, height,
             "#b5301f" if share > 1.1 * even else "#4a6d8c"))


def _node(x, y, name, columns, experts, rows):
    parts = [_text(x, y - 6, name)]
    for i, shares in enumerate(columns):
        left = x + i * CELL
        for row, share in enumerate(shares):
            parts.append('<rect x="%g" y="%g" width="%g" height="%g" fill="%s"/>'
                         % (left, y + row * ROW, CELL - 1, ROW - 0.5,
                            _colour(share, 1 / experts)))
    bars = y + rows * ROW + 6
    return parts, bars


def _panel(title, status, experts, y, rows):
    columns = _columns(status)
    even, x, parts, worst = 1 / max(len(columns), 1), 20, [], 0
    for name in sorted(columns):
        drawn, bars = _node(x, y + 44, name, columns[name], experts, rows)
        parts += drawn
        for i, shares in enumerate(columns[name]):
            worst = max(worst, sum(shares) / even)
            parts.append(_bar(x + i * CELL, bars, CELL - 1, sum(shares), even))
        width = len(columns[name]) * CELL
        parts.append('<line x1="%g" x2="%g" y1="%g" y2="%g" stroke="#222" '
                     'stroke-dasharray="3 2"/>' %
                     (x, x + width, bars + 22, bars + 22))
        x += width + GAP
    parts.insert(0, _text(20, y + 16, "%s: the busiest node of a layer has %.2f "
                          "times its even share" % (title, worst), 13))
    return parts, x, y + 44 + rows * ROW + 6 + 44


def write(path, pictures, experts):
    """pictures: [(title, status)] from top to bottom."""
    rows = max(len(shares) for _, status in pictures
               for columns in _columns(status).values() for shares in columns)
    parts, y, width = [], 10, 0
    for title, status in pictures:
        drawn, right, y = _panel(title, status, experts, y, rows)
        parts += drawn
        width = max(width, right)
        y += 24
    parts.append(_text(20, y, "Columns are layers, cells the copies of experts "
                       "that a node holds, hottest first."))
    parts.append(_text(20, y + 15, "Bars: the node's share of the layer's "
                       "tokens; dashed: an even share."))
    y += 15
    with open(path, "w") as f:
        f.write('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" '
                'font-family="sans-serif" fill="#222">\n'
                '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n'
                % (max(width, 760), y + 16, "\n".join(parts)))
