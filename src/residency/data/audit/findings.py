"""What a check says about the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from residency.data.messages import Origin

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

    def as_record(self) -> dict[str, Any]:
        """For `audit.json` and `--json`: at most ROWS_RECORDED rows by name, and how many there are."""
        return {
            "check": self.check,
            "severity": self.severity,
            "message": self.message,
            "rows": [str(origin) for origin in self.rows[:ROWS_RECORDED]],
            "num_rows": len(self.rows),
            "data": self.data,
        }
