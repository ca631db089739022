"""What was measured, and the tables that show it."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from worker_process import Worker


class Rounds:
    """The answers of every engine, round by round.

    Parameters
    ----------
    labels
        Engines in the order of the table.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.answers: dict[str, list[dict[str, Any]]] = {label: [] for label in labels}
        self.units: dict[str, int] = {}

    def add(self, worker: Worker, answer: dict[str, Any], units: int) -> None:
        """Note an answer that took its time for so many steps or systems."""
        self.answers[worker.label].append(answer)
        self.units[worker.label] = units

    def labels(self) -> list[str]:
        """Return the engines that answered."""
        return [label for label, answers in self.answers.items() if answers]

    def milliseconds(self, label: str, clock: str) -> list[float]:
        """Return the time of each round, ms per step or system."""
        return [1e3 * answer[clock] / self.units[label] for answer in self.answers[label]]

    def ratio(self, label: str, to: str) -> float:
        """Return the median over rounds of the CPU time of one engine to that of another."""
        pairs = zip(self.milliseconds(label, "cpu"), self.milliseconds(to, "cpu"), strict=False)
        return median(mine / its for mine, its in pairs)

    def part(self, label: str, name: str) -> float:
        """Return the median CPU time in a part of the engine, ms per step."""
        answers, units = self.answers[label], self.units[label]
        return median(1e3 * answer["parts"][name] / units for answer in answers)


def nve_table(rounds: Rounds, ours: str, notes: dict[str, str]) -> str:
    """Return CPU and wall time per step of every engine, and where ours goes."""
    rows = [("", "CPU ms/step", "min - max", "wall", "ratio", "")]
    rows += [(name, *_times(rounds, name, ours), notes[name]) for name in rounds.labels()]
    lines = [_table(rows)]
    names = list(rounds.answers[ours][0]["parts"])
    parts = {name: rounds.part(ours, name) for name in names}
    parts["engine"] = median(rounds.milliseconds(ours, "cpu")) - sum(parts.values())
    split = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
    lines.append(f"{ours}, CPU ms/step: {split}")
    found = sum(answer["rebuilds"] for answer in rounds.answers[ours])
    steps = rounds.units[ours] * len(rounds.answers[ours])
    if found:
        lines.append(f"{ours} finds the pairs of a system every {steps / found:.1f} steps")
    return "\n".join(lines)


def relaxation_table(rounds: Rounds, ours: str) -> str:
    """Return CPU time and evaluations per system of every engine."""
    rows = [("", "CPU ms/system", "min - max", "wall", "ratio", "computed", "needed", "converged")]
    for label in rounds.labels():
        last = rounds.answers[label][-1]
        needed = "" if last["needed"] is None else f"{last['needed']:.2f}"
        counts = f"{last['computed']:.2f}", needed, f"{last['converged']}"
        rows.append((label, *_times(rounds, label, ours), *counts))
    return (
        _table(rows)
        + "\ncomputed: evaluations per system that were paid for; needed: until it was done"
    )


def _times(rounds: Rounds, label: str, ours: str) -> tuple[str, str, str, str]:
    cpu, wall = rounds.milliseconds(label, "cpu"), rounds.milliseconds(label, "wall")
    spread = f"{min(cpu):.2f} - {max(cpu):.2f}"
    ratio = f"{rounds.ratio(label, ours):.2f}"
    return f"{median(cpu):.2f}", spread, f"{median(wall):.2f}", ratio


def _table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as text; columns that have a head are numbers and end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        columns = zip(row, rows[0], widths, strict=True)
        cells = [cell.rjust(width) if head else cell.ljust(width) for cell, head, width in columns]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
