"""From records to tables: pure functions of what was measured."""

from mmbench.report.equality import Difference, Word, compare_trials, largest, worst
from mmbench.report.forms import FORMS, Form
from mmbench.report.grouping import boards
from mmbench.report.leaderboard import Report, build, render
from mmbench.report.summary import your_runs
from mmbench.report.tables import selected_table
from mmbench.report.versus import versus

__all__ = [
    "FORMS",
    "Difference",
    "Form",
    "Report",
    "Word",
    "boards",
    "build",
    "compare_trials",
    "largest",
    "render",
    "selected_table",
    "versus",
    "worst",
    "your_runs",
]
