"""Generated head CT with and without blood: believable enough to train on, exact in its truth."""

from components.imaging.phantom.cohort import CaseRecord, CohortSummary, write_cohort
from components.imaging.phantom.defects import DEFECTS, Defect
from components.imaging.phantom.patient import Phantom, generate_patient

__all__ = [
    "DEFECTS",
    "CaseRecord",
    "CohortSummary",
    "Defect",
    "Phantom",
    "generate_patient",
    "write_cohort",
]
