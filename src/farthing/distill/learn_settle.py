"""How a run ends: what serves, what teaches the next one, what is set aside. Each step does nothing when done again, so
a kill between two is made good by the run that goes on."""

from dataclasses import replace

from farthing.distill.learn_collect import Batch
from farthing.distill.learn_compare import MAX_PRICED, priced
from farthing.distill.learn_doubt import Doubt
from farthing.distill.learn_rows import merged
from farthing.distill.learn_state import Memory, Run, State
from farthing.distill.promotion import Slot, version_name
from farthing.report.learn_history import Event, add_event

__all__ = ["event_found", "set_aside_what_taught", "settle"]


def event_found(slot: Slot, run: Run, at_us: int) -> Event | None:
    """What a run had ended in before it was killed; None: it has to be judged, or judged again."""
    event, present = run.event(), slot.current
    if event is None:
        return None
    if event.kind == "promoted" and event.version in slot.rolled_back():
        why = f"version {event.version} was rolled back before its run had ended"
        event = replace(event, kind="refused", at_us=at_us, version=present, replaced=present, reasons=(why,))
        run.write_event(event)
    return event if present in (event.replaced, event.version) else None  # somebody rolled back between a kill and now


def settle(slot: Slot, memory: Memory, run: Run, batch: Batch, event: Event, kept_versions: int) -> None:
    state = memory.state()
    aside = _aside(slot, run, batch, event)
    left = [row for number, row in enumerate(batch.rows) if number not in aside]
    if event.kind == "promoted":
        slot.promote(run.candidate, event, kept_versions)
        memory.write_rows(merged(memory.rows(), [replace(row, run=run.number) for row in left]))
        least = min(state.held_out or batch.held_out, batch.held_out)
        state = replace(state, labels=memory.labels(batch), held_out=least)
    else:
        add_event(slot.folder, event)
    memory.write_waiting(() if event.kind == "promoted" else left)
    memory.set_aside(run.number, [batch.rows[number] for number in sorted(aside)])
    is_carried = event.kind == "kept" and len(priced(batch)) < MAX_PRICED
    memory.write_state(
        State(
            run.number,
            batch.until_us,
            state.labels,
            batch.spent.large_pico or state.large_pico,
            batch.priced_since_us if is_carried else batch.until_us,
            state.held_out,
        )
    )


def set_aside_what_taught(slot: Slot, memory: Memory) -> None:
    """Rows that taught a version which was rolled back teach no other one."""
    gone, rows = slot.rolled_back(), memory.rows()
    for name in gone & {version_name(row.run) for row in rows}:
        memory.set_aside(int(name), [row for row in rows if version_name(row.run) == name])
    left = [row for row in rows if version_name(row.run) not in gone]
    if len(left) < len(rows):
        memory.write_rows(left)


def _aside(slot: Slot, run: Run, batch: Batch, event: Event) -> set[int]:
    """Rows of a batch that teach nothing any more. Of a batch that is refused those that came with it: what waited was
    in a run that did no harm. All, where the run before was refused too, or a poison that waits would refuse each one;
    and where the version that they taught was taken back."""
    aside = set((run.doubt() or Doubt(0, ())).disputed)
    if event.kind != "refused":
        return aside
    before = [one.kind for one in slot.history() if one.run < run.number]
    is_all = before[-1:] == ["refused"] or version_name(run.number) in slot.rolled_back()
    return aside | {number for number, row in enumerate(batch.rows) if is_all or row.at_us >= batch.since_us}
