"""Numbers as people read them in a report."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}{SPACE}%".replace("-", MINUS)


def score(value: float) -> str:
    return f"{value:.3f}".replace("-", MINUS)


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def points(difference: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def probability(p_value: float) -> str:
    shown = "< 0.0001" if p_value < 0.0001 else f"= {p_value:.2g}"
    return f"p {shown}".replace(" ", SPACE)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{SPACE}h {minutes}{SPACE}min" if hours else f"{minutes}{SPACE}min {rest}{SPACE}s"


def memory(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.2f}{SPACE}GiB" if size_bytes >= 1024**3 else f"{size_bytes / 1024**2:.0f}{SPACE}MiB"


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 row`, `2,000 rows`; with the `plural` where it is not the noun and an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def count(number: float) -> str:
    return f"{number:,.0f}"
