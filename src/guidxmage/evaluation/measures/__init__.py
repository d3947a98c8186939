"""The measures: each takes a case and a map and returns figures."""

from guidxmage.evaluation.measures.case import Case, Claimed, Figures
from guidxmage.evaluation.measures.table import MEASURES, Measure, choose_measures

__all__ = ["MEASURES", "Case", "Claimed", "Figures", "Measure", "choose_measures"]
