"""What was measured, kept as JSON beside the pictures, and docs/performance.md.

The page's measured part is written anew from all that is kept; what people wrote
around it stays.
"""
import datetime
import json
import os
import platform

from speed.plot import digits

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def machine():
    """The computer in a few words."""
    name = platform.machine()
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                name = " ".join(line.split(":", 1)[1].split())
                break
    with open("/proc/meminfo") as f:
        gib = int(f.readline().split()[1]) / (1 << 20)
    return "%s, %d CPUs, %.0f GiB" % (name, os.cpu_count(), gib)


class Row:
    """One line of a question's table.  goal: ('>=', 1.25), ('<=', 25) or None;
    figures: what it was computed from, {words: number}."""

    def __init__(self, what, value, goal=None, suffix="", **figures):
        self.what, self.value, self.goal = what, value, goal
        self.unit, self.figures = suffix, figures

    @classmethod
    def of(cls, kept):
        """The opposite of as_json()."""
        row = cls(kept["what"], kept["value"], kept["goal"], kept["unit"])
        row.figures = kept["figures"]
        return row

    def held(self):
        if self.goal is None:
            return None
        relation, bound = self.goal
        return self.value >= bound if relation == ">=" else self.value <= bound

    def as_json(self):
        return {"what": self.what, "value": self.value, "goal": self.goal,
                "unit": self.unit, "held": self.held(),
                "figures": self.figures}


class Results:
    def __init__(self, folder):
        self.folder = folder
        self.path = os.path.join(folder, "results.json")
        self.kept = {}
        if os.path.exists(self.path):
            with open(self.path) as f:
                self.kept = json.load(f)

    def keep(self, question, rows, how):
        """`how`: a sentence, what was run."""
        self.kept[question] = {
            "date": str(datetime.date.today()), "machine": machine(),
            "load": round(os.getloadavg()[0], 1), "how": how,
            "rows": [r.as_json() for r in rows]}
        os.makedirs(self.folder, exist_ok=True)
        part = self.path + ".part"
        with open(part, "w") as f:
            json.dump(self.kept, f, indent=1)
            f.write("\n")
        os.rename(part, self.path)


def _number(value, unit):
    if unit:
        return "%s %s" % (digits(value), unit)
    return "%.2f" % value if abs(value) < 100 else "%.0f" % value


def _figures(figures):
    words = ["%s %s" % (k.replace("_", " "),
                        digits(v) if isinstance(v, float) else v)
             for k, v in figures.items() if k != "unit"]
    return ", ".join(words) + (" " + figures["unit"] if "unit" in figures
                               else "")


def _section(title, kept, picture):
    lines = ["### " + title, "", kept["how"],
             "(%s; %s; load average %s.)" % (kept["date"], kept["machine"],
                                              kept["load"]), ""]
    if picture:
        lines += ["![%s](%s)" % (title, picture), ""]
    lines += ["| what | seen | goal | from |", "| --- | --- | --- | --- |"]
    for row in kept["rows"]:
        goal = "" if row["goal"] is None else "%s %s%s" % (
            "≥" if row["goal"][0] == ">=" else "≤",
            _number(row["goal"][1], row["unit"]),
            "" if row["held"] else ", **missed**")
        lines.append("| %s | %s | %s | %s |" % (
            row["what"], _number(row["value"], row["unit"]), goal,
            _figures(row["figures"])))
    return lines + [""]


def write_page(path, results, titles, pictures):
    """titles: {question: title} in the page's order."""
    with open(path) as f:
        before, rest = f.read().split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    lines = []
    for question, title in titles.items():
        if question in results.kept:
            lines += _section(title, results.kept[question],
                              pictures.get(question))
    with open(path, "w") as f:
        f.write(before + BEGIN + "\n\n" + "\n".join(lines) + "\n" + END +
                after)
