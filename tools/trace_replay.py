"""What the sweeps of a traced step would have taken if ranks had waited for nothing but the work that theirs follows."""


class TraceError(Exception):
    pass


def load_spans(events):
    """Forward and backward of micro-batches, by step and then by rank, in the order in which they were done."""
    steps = {}
    for event in sorted((event for event in events if event.get("ph") == "X"), key=lambda event: event["ts"]):
        if event["name"] in ("forward", "backward"):
            steps.setdefault(event["args"]["step"], {}).setdefault(event["pid"], []).append(event)
    return steps


def follows(event, last_slice):
    """What has to be done before this: (name, slice, micro-batch), or None."""
    at, micro_batch = event["args"]["slice"], event["args"]["micro_batch"]
    if event["name"] == "forward":
        return ("forward", at - 1, micro_batch) if at > 0 else None
    return ("backward", at + 1, micro_batch) if at < last_slice else ("forward", at, micro_batch)


def play(ranks):
    """Microseconds until all work of a step is done, each piece as long as it took, in each rank's order."""
    last_slice = max(event["args"]["slice"] for work in ranks.values() for event in work)
    left = {rank: list(work) for rank, work in ranks.items()}
    free, done = dict.fromkeys(left, 0.0), {}
    while any(left.values()):
        number_done = len(done)
        for rank, work in left.items():
            while work and (follows(work[0], last_slice) is None or follows(work[0], last_slice) in done):
                event = work.pop(0)
                start = max(free[rank], done.get(follows(event, last_slice), 0.0))
                free[rank] = start + event["dur"]
                done[event["name"], event["args"]["slice"], event["args"]["micro_batch"]] = free[rank]
        if len(done) == number_done:
            raise TraceError("the trace lacks work that other work follows")
    return max(free.values())


def replay(events):
    """[(measured, replayed)] seconds of each step's sweeps: without messages, and without time that ranks lose between
    pieces of work."""
    sweeps = []
    for _, ranks in sorted(load_spans(events).items()):
        work = [event for of_rank in ranks.values() for event in of_rank]
        begin, end = min(event["ts"] for event in work), max(event["ts"] + event["dur"] for event in work)
        sweeps.append((1e-6 * (end - begin), 1e-6 * play(ranks)))
    return sweeps
