"""What a person looks at when a pipeline has ended: a summary, the reward curve, a page and a model card."""

from medgrpo.report.curve import draw_curve
from medgrpo.report.summary import Findings, Summary, render

__all__ = ["Findings", "Summary", "draw_curve", "render"]
