"""Figures of a scaling study from the results of bench and plan: medians and spreads, speed-up, efficiency, tables.

Knows nothing of how they were measured. Times are in seconds, shares of 1, memory in bytes of the rank that has most.
"""
import csv
import io
import statistics

MIB = 2**20


def row_of(result):
    """The figures of a study, from the JSON of bench or plan."""
    row = {key: result[key] for key in ("step_seconds", "images_per_second", "schedule", "slices_per_rank")}
    if result["command"] == "plan":
        return {**row, "waiting": result["bubble"], "memory_bytes": max(r["memory_bytes"] for r in result["ranks"])}
    shares = [phase["share"] for phase in result["phases"] if phase["phase"] == "waiting"]
    return {**row, "waiting": statistics.mean(shares) if shares else 0.0, "memory_bytes": max(result["peak_memory_bytes"])}


def spread(rows):
    keys = ("step_seconds", "images_per_second", "speed_up", "efficiency", "waiting", "memory_bytes")
    values = {key: [row[key] for row in rows if row[key] is not None] for key in keys}
    return {key: {"median": statistics.median(seen), "least": min(seen), "most": max(seen)}
            for key, seen in values.items() if seen}


def summarize(facts, series, points, measured, planned):
    """What study.json says, and every curve's points.

    series    [(name, [(T, D), ...])]
    points    with name, ranks, time_ranks, data_ranks and options, the one with the fewest ranks first
    measured  {name: {repetition: result of bench}}
    planned   {name: result of plan}, where there is one
    """
    measured = {name: {number: row_of(result) for number, result in rounds.items()} for name, rounds in measured.items()}
    planned = {name: row_of(result) for name, result in planned.items()}
    summary = {**facts, "series": []}
    for name, grids in series:
        members = [next(p for p in points if (p.time_ranks, p.data_ranks) == grid) for grid in grids]
        base = points[0] if facts["study"] == "strong" else members[0]
        rows = [compare(facts["study"], point, base, measured, planned) for point in members]
        summary["series"].append({"name": name, "base": base.name, "points": [row for row in rows if row]})
    return summary


def compare(study, point, base, measured, planned):
    """A point against its reference: measured ones of the same repetition, as a machine's speed drifts."""
    ideal = point.ranks / base.ranks if study == "strong" else 1
    rounds, references = measured[point.name], measured[base.name]

    def against(row, reference):
        gain = reference["step_seconds"] / row["step_seconds"] if reference else None
        return {**row, "speed_up": gain, "efficiency": gain and gain / ideal}

    usual = {"step_seconds": statistics.median(r["step_seconds"] for r in references.values())} if references else None
    rows = {number: against(row, references.get(number, usual)) for number, row in rounds.items()}
    plan = against(planned[point.name], planned.get(base.name)) if point.name in planned else None
    if not rows and not plan:
        return None
    return {"grid": point.name, "ranks": point.ranks, "time_ranks": point.time_ranks, "data_ranks": point.data_ranks,
            "options": point.options, "planned": plan, "measured": spread(list(rows.values())), "repetitions": rows}


def table(summary):
    """CSV: a line a measurement, with the summary of its grid; a line a grid where nothing was measured."""
    lines, seen = [], set()
    for point in (point for curve in summary["series"] for point in curve["points"]):
        if point["grid"] in seen:
            continue
        seen.add(point["grid"])
        plan, steps = point["planned"] or {}, point["measured"].get("step_seconds", {})
        for number, row in (point["repetitions"] or {"": {}}).items():
            lines.append({
                "study": summary["study"], "ranks": point["ranks"], "time_ranks": point["time_ranks"],
                "data_ranks": point["data_ranks"], "threads": summary["threads"], "repetition": number,
                "schedule": row.get("schedule", plan.get("schedule")), **columns(row, ""),
                **{f"step_seconds_{key}": steps.get(key, "") for key in ("median", "least", "most")},
                **columns(plan, "_planned")})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else ["study"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def columns(row, ending):
    """Figures of a row in units for people; a cell is empty where there is none."""
    units = {"step_seconds": ("step_seconds", 1), "images_per_second": ("images_per_second", 1),
             "speed_up": ("speed_up", 1), "efficiency": ("efficiency_percent", 100),
             "waiting": ("waiting_percent", 100), "memory_bytes": ("memory_mib", 1 / MIB)}
    return {name + ending: "" if row.get(key) is None else round(row[key] * scale, 6)
            for key, (name, scale) in units.items()}


def percent(row, key):
    return "-" if row.get(key) is None else f"{100 * row[key]:.1f}%"


def report(summary):
    """For the terminal."""
    lines = [f"{'curve':>6} {'grid':>9} {'step ms (least..most)':>26} {'efficiency':>11} {'waiting':>8} {'MiB':>8}"
             f" {'planned ms':>11} {'efficiency':>11} {'waiting':>8} {'MiB':>8}"]
    for curve in summary["series"]:
        for point in curve["points"]:
            seen, plan = point["measured"], point["planned"] or {}
            middle = {key: value["median"] for key, value in seen.items()}
            text = "{median:.1f} ({least:.1f}..{most:.1f})".format(
                **{key: 1e3 * value for key, value in seen["step_seconds"].items()}) if seen else "-"
            memory, step, memory_planned = (
                f"{row[key] / unit:.{digits}f}" if row else "-" for row, key, unit, digits in
                ((middle, "memory_bytes", MIB, 0), (plan, "step_seconds", 1e-3, 1), (plan, "memory_bytes", MIB, 0)))
            lines.append(f"{curve['name']:>6} {point['grid']:>9} {text:>26} {percent(middle, 'efficiency'):>11} "
                         f"{percent(middle, 'waiting'):>8} {memory:>8} {step:>11} {percent(plan, 'efficiency'):>11} "
                         f"{percent(plan, 'waiting'):>8} {memory_planned:>8}")
    return "\n".join(lines)
