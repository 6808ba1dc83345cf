"""Small pictures as SVG: bars beside their goals, and lines."""
import html

WIDTH, RIGHT = 720, 90
LETTER = 6.6  # of a label, about
BAR, GAP, TOP = 16, 8, 34
INK, OURS, MISSED, GOAL = "#333", "#4a6d8c", "#b5301f", "#888"
COLOURS = ["#4a6d8c", "#e4672d", "#5b8c4a", "#8c4a7d"]


def digits(value):
    """Three of them, or all before the point."""
    return "%.3g" % value if abs(value) < 1000 else "%.0f" % value


def _text(x, y, words, anchor="start", size=12, fill=INK):
    return ('<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" '
            'fill="%s">%s</text>' % (x, y, size, anchor, fill,
                                     html.escape(words)))


def _page(title, height, parts, width=WIDTH):
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
            'font-family="sans-serif">\n'
            '<rect width="100%%" height="100%%" fill="#fff"/>\n%s\n%s\n</svg>\n'
            % (width, height, _text(12, 20, title, size=14),
               "\n".join(parts)))


def bars(path, title, rows):
    """rows: as kept by results.Results, a bar each, a tick at each goal."""
    most = max([r["value"] for r in rows] +
               [r["goal"][1] for r in rows if r["goal"]]) or 1
    left = 16 + LETTER * max(len(r["what"]) for r in rows)
    width = max(WIDTH, left + WIDTH / 2)
    scale = (width - left - RIGHT) / most
    parts = []
    for i, row in enumerate(rows):
        y = TOP + i * (BAR + GAP)
        length = max(row["value"] * scale, 1)
        colour = MISSED if row["held"] is False else OURS
        parts.append(_text(left - 8, y + 12, row["what"], "end"))
        parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%d" '
                     'fill="%s"/>' % (left, y, length, BAR, colour))
        parts.append(_text(left + length + 6, y + 12,
                           digits(row["value"]) + " " + row["unit"]))
        if row["goal"]:
            x = left + row["goal"][1] * scale
            parts.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" '
                         'stroke="%s" stroke-width="2"/>' %
                         (x, y - 2, x, y + BAR + 2, GOAL))
    _write(path, _page(title, TOP + len(rows) * (BAR + GAP) + 8, parts, width))


def lines(path, title, x_name, y_name, series):
    """series: {name: [(x, y)]}, both axes from 0."""
    height, bottom, left = 360, 320, 70
    most_x = max(x for points in series.values() for x, _ in points) or 1
    most_y = max(y for points in series.values() for _, y in points) or 1

    def at(x, y):
        return (left + x / most_x * (WIDTH - left - 150),
                bottom - y / most_y * (bottom - 50))

    parts = ['<path d="M%d 40V%dH%d" fill="none" stroke="%s"/>' %
             (left, bottom, WIDTH - 150, INK),
             _text(left, 36, y_name, "middle"),
             _text(WIDTH - 150, bottom + 30, x_name, "end")]
    for share in (0.25, 0.5, 0.75, 1):
        x, y = at(most_x * share, most_y * share)
        parts.append(_text(x, bottom + 16, digits(most_x * share),
                           "middle", 11))
        parts.append(_text(left - 6, y + 4, digits(most_y * share), "end",
                           11))
    for colour, (name, points) in zip(COLOURS, series.items()):
        path_data = "M" + "L".join("%.1f %.1f" % at(*p) for p in points)
        parts.append('<path d="%s" fill="none" stroke="%s" '
                     'stroke-width="2"/>' % (path_data, colour))
        for p in points:
            parts.append('<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>' %
                         (*at(*p), colour))
        x, y = at(*points[-1])
        parts.append(_text(x + 8, y + 4, name, fill=colour))
    _write(path, _page(title, height, parts))


def _write(path, text):
    with open(path, "w") as f:
        f.write(text)
