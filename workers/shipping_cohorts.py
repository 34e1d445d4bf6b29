"""How long orders wait for their shipment, by ship mode."""

from collections import Counter, defaultdict
from statistics import median
from typing import Annotated, Any

from msgspec import Meta

from falconas import Context, script

# Months as in a calendar: ordered on 31 January, shipped on 1 February is 1.
QUERY = """
SELECT l_shipmode,
       l_shipdate - o_orderdate AS days,
       12 * (extract(year FROM l_shipdate) - extract(year FROM o_orderdate))::integer
           + (extract(month FROM l_shipdate) - extract(month FROM o_orderdate))::integer
           AS months,
       count(*) AS lines
FROM orders
JOIN lineitem ON l_orderkey = o_orderkey
WHERE o_orderdate >= make_date(%(year)s::integer, 1, 1)
  AND o_orderdate < make_date(%(year)s::integer + 1, 1, 1)
GROUP BY 1, 2, 3
"""


@script(access="read", budget=20.0)
def run(
    ctx: Context, year: Annotated[int, Meta(ge=1, le=9998)]
) -> list[dict[str, Any]]:
    """Group a year's order lines by ship mode and by months until their shipment.

    One row for each ship mode: its lines, the median of days until shipment and the
    percentage of lines shipped in the month of the order, one month later, and so on.
    Every row has the same months, so that they can be laid out as a table.

    Try: falconas call shipping_cohorts year=1995
    """
    by_days: defaultdict[str, Counter[int]] = defaultdict(Counter)
    by_months: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for mode, days, months, lines in ctx.db.execute(QUERY, {"year": year}):
        by_days[mode][days] += lines
        by_months[mode][months] += lines
    last = max((months for found in by_months.values() for months in found), default=0)
    return [
        {
            "ship_mode": mode,
            "lines": by_days[mode].total(),
            "median_days": median(by_days[mode].elements()),
            "percent_by_month": percentages(by_months[mode], last),
        }
        for mode in sorted(by_days)
    ]


def percentages(counts: Counter[int], last: int) -> list[float]:
    """Return the shares of 0 to `last` in percent."""
    total = counts.total()
    return [round(100 * counts[value] / total, 1) for value in range(last + 1)]
