"""The row report as a file: what became of every row, to be opened in a spreadsheet."""

import csv
import io

from playground.data.report import Report
from playground.data.tokens import Lengths

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that begins so for something to run


def report_csv(report: Report, lengths: Lengths | None = None) -> str:
    """row, what happened, reason: one line for each row that the report speaks of and each effect of the limit.

    The text has the line ends of the CSV standard: write it as it is.
    """
    found = [(row, "dropped", reason) for row, reason in report.dropped]
    if lengths:
        endless, unlearnable = set(lengths.endless), set(lengths.unlearnable)
        found += [(row, "left out", reason) for row, reason in lengths.refused]
        found += [(row, "left out", "nothing left to learn") for row in lengths.unlearnable]
        found += [(row, "left out", "longer than the limit") for row in lengths.too_long]
        found += [
            (row, "cut", f"tokens lost at the end: {lost}" + (", with the end of the last answer" * (row in endless)))
            for row, lost in zip(lengths.cut, lengths.lost, strict=True)
            if row not in unlearnable
        ]
    found += [(row, "elsewhere", what) for row, what in report.elsewhere]
    told = {row for row, *_ in found}
    found += [(row.row, "kept", "") for row in report.kept if row.row not in told]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("row", "what happened", "reason"))
    writer.writerows((row, what, _safe(reason)) for row, what, reason in sorted(found))
    return file.getvalue()


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
