"""Classes on one measured scale: adult reference ranges, diagnostic cut-offs, severity grades."""

from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from medgrpo.data.clinical.topic import Numbers, Topic, listed, span
from medgrpo.types import Example

HARMONY = "Pathology Harmony adult reference intervals (UK); Berg J, Lane V. Ann Clin Biochem 2011;48:195-197"
ADA = "American Diabetes Association, Standards of Care 2024, section 2. Diabetes Care 2024;47(Suppl 1):S20-S42"
WHO_ANAEMIA = "WHO. Haemoglobin concentrations for the diagnosis of anaemia. WHO/NMH/NHD/MNM/11.1, 2011"
WHO_BMI = "WHO. Obesity: preventing and managing the global epidemic. Technical Report Series 894, 2000"
KDIGO = "KDIGO 2012 Clinical Practice Guideline for CKD. Kidney Int Suppl 2013;3:1-150"
ATP3 = "NCEP Adult Treatment Panel III. JAMA 2001;285:2486-2497"
GOLD_COPD = "Global Initiative for Chronic Obstructive Lung Disease, GOLD Report 2023"
TEFFERI = "Tefferi A. Anemia in adults: a contemporary approach to diagnosis. Mayo Clin Proc 2003;78:1274-1280"


@dataclass(frozen=True)
class Scale:
    """A measure, the values asked about, and the lowest value of each class but the first, in ascending order."""

    measure: str
    unit: str
    low: str
    high: str
    step: str
    floors: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """Labels of this scale alone, where they differ from the topic's."""

    def place(self, value: Decimal) -> int:
        """Which class the value is in, counted from the lowest."""
        return bisect_right([Decimal(f) for f in self.floors], value)

    def ceiling(self, place: int) -> Decimal:
        """The highest value of a class, at the measure's resolution."""
        return Decimal(self.floors[place]) - Decimal(self.step)

    def bounds(self, place: int) -> str:
        """A class's values in words."""
        if place == 0:
            return f"below {self.floors[0]}"
        if place == len(self.floors):
            return f"{self.floors[-1]} or more"
        return f"{self.floors[place - 1]}-{self.ceiling(place)}"


def within(measure: str, unit: str, normal: tuple[str, str], ends: tuple[str, str], step: str = "1") -> Scale:
    """A reference range, both limits included, asked about from one end to the other."""
    above = Decimal(normal[1]) + Decimal(step)
    return Scale(measure, unit, ends[0], ends[1], step, (normal[0], str(above)))


def ions(name: str, measure: str, normal: tuple[str, str], ends: tuple[str, str], step: str) -> Scale:
    """A reference range in mmol/L whose two sides have names of their own."""
    scale = within(measure, "mmol/L", normal, ends, step)
    labels = (f"hypo{name}", "normal", f"hyper{name}")
    return Scale(measure, scale.unit, scale.low, scale.high, step, scale.floors, labels)


@dataclass(frozen=True, kw_only=True)
class Graded(Topic):
    """Questions that place a value in a class. Numbers: (index of the scale, value).

    Templates know `measure`, `value`, `unit`, `labels`, `cutoffs` (each class with its values) and `normal`
    (the values of the second class: the reference range where there are three).
    """

    labels: tuple[str, ...]
    scales: tuple[Scale, ...]
    ask: str
    amount: str = "{value} {unit}"

    def pools(self) -> list[list[Numbers]]:
        """The numbers of all scales by class."""
        pools: list[list[Numbers]] = [[] for _ in self.labels]
        for i, scale in enumerate(self.scales):
            for value in span(scale.measure, scale.low, scale.high, scale.step).values:
                pools[scale.place(value)].append((Decimal(i), value))
        return pools

    def write(self, row_id: str, numbers: Numbers, rng: Random) -> Example:
        """State the value; the reasoning compares it with the limits of its class."""
        scale, value = self.scales[int(numbers[0])], numbers[1]
        labels = scale.labels or self.labels
        place = scale.place(value)
        question = self.ask.format(
            measure=scale.measure,
            value=self.amount.format(value=value, unit=scale.unit),
            unit=scale.unit,
            labels=listed(labels),
            cutoffs=", ".join(f"{text} {scale.bounds(i)}" for i, text in enumerate(labels)),
            normal=scale.bounds(1),
        )
        return self.judged(row_id, question, self._compare(scale, place, value, labels[place]), labels, labels[place])

    def _compare(self, scale: Scale, place: int, value: Decimal, label: str) -> str:
        if place == 0:
            return f"{value} is below {scale.floors[0]}, so the answer is {label}."
        if place == len(scale.floors):
            # 'above 146' for the top of a reference range, 'at least 126' for a diagnostic threshold
            limit = f"above {scale.ceiling(place - 1)}" if "{normal}" in self.ask else f"at least {scale.floors[-1]}"
            return f"{value} is {limit}, so the answer is {label}."
        low, high = scale.floors[place - 1], scale.ceiling(place)
        return f"{value} is at least {low} and at most {high}, so the answer is {label}."


RANGE = "{measure} is {value} (reference range {normal}). Is it low, normal or high?"
LEVELS = ("low", "normal", "high")

REFERENCE: tuple[Topic, ...] = (
    Graded(
        name="electrolytes", kind="choice", citation=HARMONY, labels=LEVELS, ask=RANGE,
        scales=(
            within("Serum sodium", "mmol/L", ("133", "146"), ("112", "166")),
            within("Serum potassium", "mmol/L", ("3.5", "5.3"), ("2.0", "7.5"), "0.1"),
            within("Serum chloride", "mmol/L", ("95", "108"), ("76", "126")),
            within("Serum bicarbonate", "mmol/L", ("22", "29"), ("6", "44")),
            within("Serum phosphate", "mmol/L", ("0.80", "1.50"), ("0.20", "2.60"), "0.01"),
            within("Serum magnesium", "mmol/L", ("0.70", "1.00"), ("0.30", "1.60"), "0.01"),
            within("Adjusted serum calcium", "mmol/L", ("2.20", "2.60"), ("1.60", "3.40"), "0.01"),
        ),
    ),
    Graded(
        name="blood-count", kind="choice", citation=HARMONY, labels=LEVELS, ask=RANGE,
        scales=(
            within("A man's haemoglobin", "g/L", ("130", "180"), ("60", "220")),
            within("A woman's haemoglobin", "g/L", ("115", "165"), ("60", "210")),
            within("White cell count", "×10⁹/L", ("3.6", "11.0"), ("0.5", "25.0"), "0.1"),
            within("Neutrophil count", "×10⁹/L", ("1.8", "7.5"), ("0.1", "18.0"), "0.1"),
            within("Lymphocyte count", "×10⁹/L", ("1.0", "4.0"), ("0.1", "9.0"), "0.1"),
            within("Platelet count", "×10⁹/L", ("140", "400"), ("15", "800"), "5"),
            within("Mean cell volume", "fL", ("80", "100"), ("58", "126")),
        ),
    ),
    Graded(
        name="blood-chemistry", kind="choice", citation=HARMONY, labels=LEVELS, ask=RANGE,
        scales=(
            within("Serum urea", "mmol/L", ("2.5", "7.8"), ("0.8", "30.0"), "0.1"),
            within("Serum albumin", "g/L", ("35", "50"), ("14", "58")),
            within("Serum total protein", "g/L", ("60", "80"), ("38", "110")),
            within("A man's serum urate", "µmol/L", ("200", "430"), ("80", "700"), "5"),
            within("A woman's serum urate", "µmol/L", ("140", "360"), ("60", "640"), "5"),
            within("Alkaline phosphatase", "U/L", ("30", "130"), ("8", "500"), "2"),
            within("Serum osmolality", "mmol/kg", ("275", "295"), ("240", "350")),
        ),
    ),
    Graded(
        name="ion-disorder", kind="text", citation=HARMONY, labels=LEVELS,
        ask="{measure} is {value} (reference range {normal}). Answer {labels}.",
        scales=(
            ions("natraemia", "Serum sodium", ("133", "146"), ("112", "166"), "1"),
            ions("kalaemia", "Serum potassium", ("3.5", "5.3"), ("2.0", "7.5"), "0.1"),
            ions("phosphataemia", "Serum phosphate", ("0.80", "1.50"), ("0.20", "2.60"), "0.01"),
            ions("magnesaemia", "Serum magnesium", ("0.70", "1.00"), ("0.30", "1.60"), "0.01"),
            ions("calcaemia", "Adjusted serum calcium", ("2.20", "2.60"), ("1.60", "3.40"), "0.01"),
        ),
    ),
)  # fmt: skip

CUTOFFS: tuple[Topic, ...] = (
    Graded(
        name="diabetes-criteria", kind="choice", citation=ADA, labels=("normal", "prediabetes", "diabetes"),
        ask="{measure} is {value}. Cut-offs: {cutoffs}. Which class is it?",
        scales=(
            Scale("Fasting plasma glucose", "mg/dL", "65", "250", "1", ("100", "126")),
            Scale("Two-hour plasma glucose in a 75 g tolerance test", "mg/dL", "75", "350", "1", ("140", "200")),
            Scale("HbA1c", "%", "4.4", "12.0", "0.1", ("5.7", "6.5")),
        ),
    ),
    Graded(
        name="anaemia-severity", kind="choice", citation=WHO_ANAEMIA,
        labels=("severe anaemia", "moderate anaemia", "mild anaemia", "no anaemia"),
        ask="{measure} has haemoglobin {value}. WHO cut-offs: {cutoffs}. Which class is it?",
        scales=(
            Scale("A man", "g/L", "35", "175", "1", ("80", "110", "130")),
            Scale("A woman who is not pregnant", "g/L", "35", "160", "1", ("80", "110", "120")),
            Scale("A pregnant woman", "g/L", "35", "150", "1", ("70", "100", "110")),
        ),
    ),
    Graded(
        name="ldl-category", kind="choice", citation=ATP3,
        labels=("optimal", "near optimal", "borderline high", "high", "very high"),
        ask="{measure} is {value}. Which category is it in ATP III?",
        scales=(Scale("LDL cholesterol", "mg/dL", "50", "260", "1", ("100", "130", "160", "190")),),
    ),
    Graded(
        name="triglyceride-category", kind="text", citation=ATP3,
        labels=("normal", "borderline high", "high", "very high"),
        ask="{measure} are {value}. Name the ATP III category: {labels}.",
        scales=(Scale("Fasting triglycerides", "mg/dL", "50", "1000", "1", ("150", "200", "500")),),
    ),
    Graded(
        name="albuminuria", kind="choice", citation=KDIGO, labels=("A1", "A2", "A3"),
        ask="{measure} is {value}. KDIGO categories: {cutoffs}. Which is it?",
        scales=(Scale("Urine albumin to creatinine ratio", "mg/g", "2", "900", "1", ("30", "301")),),
    ),
    Graded(
        name="egfr-category", kind="text", citation=KDIGO, labels=("G5", "G4", "G3b", "G3a", "G2", "G1"),
        ask="{measure} is {value}. Name the KDIGO GFR category: G1, G2, G3a, G3b, G4 or G5.",
        scales=(Scale("Estimated GFR", "mL/min/1.73 m²", "1", "130", "1", ("15", "30", "45", "60", "90")),),
    ),
    Graded(
        name="bmi-class", kind="text", citation=WHO_BMI,
        labels=("underweight", "normal", "overweight", "obesity class I", "obesity class II", "obesity class III"),
        ask="An adult's {measure} is {value}. Name the WHO class: {labels}.",
        scales=(Scale("body mass index", "kg/m²", "13.0", "60.0", "0.1", ("18.5", "25.0", "30.0", "35.0", "40.0")),),
    ),
    Graded(
        name="copd-grade", kind="text", citation=GOLD_COPD, labels=("GOLD 4", "GOLD 3", "GOLD 2", "GOLD 1"),
        amount="{value}{unit}",
        ask="COPD with an FEV1 to FVC ratio under 0.7: {measure} is {value} of predicted. "
        "Name the grade: GOLD 1, GOLD 2, GOLD 3 or GOLD 4.",
        scales=(Scale("FEV1 after bronchodilator", "%", "10", "115", "1", ("30", "50", "80")),),
    ),
    Graded(
        name="anaemia-type", kind="text", citation=TEFFERI, labels=("microcytic", "normocytic", "macrocytic"),
        ask="An anaemic adult's {measure} is {value} (reference range {normal}). Answer {labels}.",
        scales=(within("mean cell volume", "fL", ("80.0", "100.0"), ("60.0", "125.0"), "0.1"),),
    ),
)  # fmt: skip
