"""What a check says about the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.table import Table
from residency.data.messages import Origin
from residency.wording import counted

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
ROWS_RECORDED = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or worth knowing, and the rows that show it."""

    check: str
    """A stable name for programs, for example `near_duplicates`."""
    severity: Severity
    """error: training on it makes no sense; warning: it costs quality or safety; note: a person should look once."""
    message: str
    """A sentence a person can act on."""
    rows: list[Origin] = field(default_factory=list)
    """Every row concerned, the most telling first."""
    data: dict[str, Any] = field(default_factory=dict)
    """Figures and pairs behind the sentence, ready for JSON."""
    share: float | None = None
    """The share of all rows that costs points in the score; null for what costs none."""
    others: list[Origin] = field(default_factory=list)
    """For each of `rows` the row that it repeats, contradicts, stands in or is nearest to, where there is one."""

    def as_record(self) -> dict[str, Any]:
        """For `audit.json` and `--json`: at most ROWS_RECORDED rows by name, and how many there are."""
        return {
            "check": self.check,
            "severity": self.severity,
            "message": self.message,
            "rows": [str(origin) for origin in self.rows[:ROWS_RECORDED]],
            "num_rows": len(self.rows),
            **({"others": [str(origin) for origin in self.others[:ROWS_RECORDED]]} if self.others else {}),
            "data": self.data,
        }


def of_rows(
    check: str,
    severity: Severity,
    table: Table,
    rows: Sequence[int] | NDArray[np.int64],
    message: str,
    *,
    other: Callable[[int], int] | None = None,
    always: bool = False,
    costs: bool = True,
) -> Finding | None:
    """A finding about `rows`, which `{rows}` in the message counts; null where there are none, but for `always`.

    `other` gives the number of the row that a row repeats or contradicts.
    """  # fmt: skip
    if not len(rows) and not always:
        return None
    share = len(rows) / len(table)
    data: dict[str, Any] = {"share": round(share, 6)}
    told = message.replace("{rows}", f"{counted(len(rows), 'row')} ({share:.1%})")
    others = table.origins(other(int(row)) for row in rows) if other else []
    return Finding(check, severity, told, table.origins(rows), data, share if costs else None, others)
