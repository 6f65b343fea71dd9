"""From findings to a score of 0 to 100, in which every lost point belongs to a finding and so to rows."""

from __future__ import annotations

from collections.abc import Sequence

from residency.data.audit.findings import Finding

POINTS_PER_PERCENT = {
    "unusable": 10.0,
    "special_tokens": 6.0,
    "leaks": 4.0,
    "contradictions": 3.0,
    "secrets": 3.0,
    "residue": 3.0,
    "personal_data": 1.0,
    "cut_off": 1.5,
    "over_long": 1.0,
    "exact_duplicates": 0.5,
    "near_duplicates": 0.4,
    "format_minority": 0.5,
}
BY_SEVERITY = {"error": 4.0, "warning": 1.0, "note": 0.0}
MOST_POINTS = 40.0
"""No finding costs more, so that a second one still shows."""


def points_lost(findings: Sequence[Finding]) -> list[float]:
    """For each finding: its share of rows times what a percent of them costs."""
    return [min(MOST_POINTS, 100 * (finding.share or 0) * cost_of(finding)) for finding in findings]


def cost_of(finding: Finding) -> float:
    return POINTS_PER_PERCENT.get(finding.check, BY_SEVERITY[finding.severity])


def score(findings: Sequence[Finding]) -> int:
    return max(0, round(100 - sum(points_lost(findings))))
