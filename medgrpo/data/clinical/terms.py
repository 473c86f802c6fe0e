"""Findings named from several numbers: blood pressure, blood gases, ratios and gradients."""

from decimal import Decimal

from medgrpo.data.clinical.topic import Topic, Verdict, span

D = Decimal


def pressure_class(sbp: Decimal, dbp: Decimal) -> int | None:
    """0 normal, 1 elevated, 2 stage 1, 3 stage 2 (ACC/AHA 2017, mmHg); None for an implausible pulse pressure."""
    if not 25 <= sbp - dbp <= 85:
        return None
    if sbp >= 140 or dbp >= 90:
        return 3
    if sbp >= 130 or dbp >= 80:
        return 2
    return int(sbp >= 120)


def ph(pco2: Decimal, hco3: Decimal) -> Decimal:
    """Henderson-Hasselbalch, to two decimals; PaCO2 in mmHg with solubility 0.0307 mmol/L/mmHg, HCO3 in mmol/L."""
    return (D("6.1") + (hco3 / (D("0.0307") * pco2)).log10()).quantize(D("0.01"))


def acid_base(pco2: Decimal, hco3: Decimal) -> int | None:
    """The single disorder that the gas fits: 0, 1 respiratory acidosis, alkalosis; 2, 3 metabolic; None if unclear.

    Only numbers within the expected compensation are used (Berend 2014): PaCO2 within 2 mmHg of 1.5 × HCO3 + 8
    or of 40 + 0.7 × (HCO3 - 24); HCO3 between the acute (0.1, 0.2) and the chronic (0.4) change per mmHg of PaCO2.
    """
    rise, acidity = pco2 - 40, ph(pco2, hco3)
    if acidity < D("7.35"):
        if pco2 >= 50 and D("0.1") * rise <= hco3 - 24 <= D("0.4") * rise:
            return 0
        return 2 if hco3 <= 20 and abs(pco2 - (D("1.5") * hco3 + 8)) <= 2 else None
    if acidity > D("7.45"):
        if pco2 <= 32 and D("0.4") * rise <= hco3 - 24 <= D("0.2") * rise:
            return 1
        return 3 if hco3 >= 29 and abs(rise - D("0.7") * (hco3 - 24)) <= 2 else None
    return None


def expected_pco2(hco3: Decimal) -> Decimal:
    """Compensated PaCO2 in mmHg for a metabolic acidosis (Albert, Dell and Winters 1967)."""
    return D("1.5") * hco3 + 8


def compensation(hco3: Decimal, pco2: Decimal) -> int | None:
    """0 as expected (within 2 mmHg), 1 PaCO2 too high, 2 too low; None where it is far from any single patient."""
    excess = pco2 - expected_pco2(hco3)
    if abs(excess) > 10 or pco2 < 10:
        return None
    return 1 if excess > 2 else 2 if excess < -2 else 0


def ards_class(po2: Decimal, fio2: Decimal) -> int | None:
    """0 mild, 1 moderate, 2 severe by PaO2 / FiO2 in mmHg; None above 300, where it is no ARDS."""
    ratio = po2 / fio2
    return None if ratio > 300 else (ratio <= 200) + (ratio <= 100)


def ankle_class(ankle: Decimal, arm: Decimal) -> int | None:
    """0 abnormal, 1 borderline, 2 normal, 3 noncompressible; None between the classes, where rounding would decide."""
    index = ankle / arm
    bounds = (("0.30", "0.90"), ("0.91", "0.99"), ("1.00", "1.40"), ("1.41", "1.80"))
    return next((i for i, (low, high) in enumerate(bounds) if D(low) <= index <= D(high)), None)


def mentzer_class(mcv: Decimal, rbc: Decimal) -> int | None:
    """0 thalassaemia trait (index below 13), 1 iron deficiency (above 13); None at 13 and out of the usual span."""
    index = mcv / rbc
    return None if abs(index - 13) < D("0.5") or not 8 <= index <= 25 else int(index > 13)


PRESSURE_LABELS = ("normal", "elevated", "stage 1 hypertension", "stage 2 hypertension")

TERMS: tuple[Topic, ...] = (
    Verdict(
        name="blood-pressure", kind="text", citation="Whelton PK et al. 2017 ACC/AHA guideline. "
        "Hypertension 2018;71:e13-e115",
        axes=(span("sbp", "96", "190"), span("dbp", "54", "118")),
        ask="Blood pressure is {sbp}/{dbp} mmHg. Name the ACC/AHA category: normal, elevated, stage 1 hypertension or "
        "stage 2 hypertension.",
        labels=PRESSURE_LABELS, classify=pressure_class,
        reasons=(
            "Systolic {sbp} is below 120 and diastolic {dbp} is below 80: normal.",
            "Systolic {sbp} is within 120-129 and diastolic {dbp} is below 80: elevated.",
            "Of {sbp} and {dbp}, one is within 130-139 or 80-89 and neither is higher: stage 1 hypertension.",
            "Of {sbp} and {dbp}, one reaches 140 systolic or 90 diastolic: stage 2 hypertension.",
        ),
    ),
    Verdict(
        name="acid-base", kind="text", citation="Berend K, de Vries APJ, Gans ROB. N Engl J Med 2014;371:1434-1445",
        axes=(span("pco2", "16", "90"), span("hco3", "6.0", "44.0", "0.5")),
        ask="Arterial pH {ph}, PaCO2 {pco2} mmHg, bicarbonate {hco3} mmol/L. Name the primary disorder: respiratory "
        "or metabolic, then acidosis or alkalosis.",
        labels=("respiratory acidosis", "respiratory alkalosis", "metabolic acidosis", "metabolic alkalosis"),
        classify=acid_base, steps={"ph": lambda pco2, hco3: f"{ph(pco2, hco3):f}"},
        reasons=(
            "pH {ph} is below 7.35: acidosis. PaCO2 {pco2} is above 45 and explains it: respiratory acidosis.",
            "pH {ph} is above 7.45: alkalosis. PaCO2 {pco2} is below 35 and explains it: respiratory alkalosis.",
            "pH {ph} is below 7.35: acidosis. Bicarbonate {hco3} is below 22 and explains it: metabolic acidosis.",
            "pH {ph} is above 7.45: alkalosis. Bicarbonate {hco3} is above 26 and explains it: metabolic alkalosis.",
        ),
    ),
    Verdict(
        name="winters-compensation", kind="choice", shuffled=True,
        citation="Albert MS, Dell RB, Winters RW. Ann Intern Med 1967;66:312-322",
        axes=(span("hco3", "5.0", "16.0", "0.5"), span("pco2", "10", "44")),
        ask="Metabolic acidosis: bicarbonate {hco3} mmol/L, PaCO2 {pco2} mmHg. Expected PaCO2 is 1.5 × bicarbonate "
        "+ 8, within 2. What does the PaCO2 show?",
        labels=("compensation as expected", "additional respiratory acidosis", "additional respiratory alkalosis"),
        classify=compensation, steps={"expected": lambda hco3, pco2: expected_pco2(hco3)},
        reasons=(
            "1.5 × {hco3} + 8 = {expected}. PaCO2 {pco2} is within 2 of it: compensation as expected.",
            "1.5 × {hco3} + 8 = {expected}. PaCO2 {pco2} is more than 2 higher: additional respiratory acidosis.",
            "1.5 × {hco3} + 8 = {expected}. PaCO2 {pco2} is more than 2 lower: additional respiratory alkalosis.",
        ),
    ),
    Verdict(
        name="ards-severity", kind="choice", citation="ARDS Definition Task Force. JAMA 2012;307:2526-2533",
        axes=(span("po2", "40", "150"), span("fio2", "0.40", "1.00", "0.10")),
        ask="ARDS with PEEP 10 cmH2O: PaO2 {po2} mmHg, FiO2 {fio2}. By Berlin, severe is a ratio up to 100, moderate "
        "up to 200, mild up to 300. Which is it?",
        labels=("mild", "moderate", "severe"), classify=ards_class,
        steps={"ratio": lambda po2, fio2: f"{po2 / fio2:.1f}"},
        reasons=(
            "{po2} / {fio2} = {ratio}, above 200 and at most 300: mild.",
            "{po2} / {fio2} = {ratio}, above 100 and at most 200: moderate.",
            "{po2} / {fio2} = {ratio}, at most 100: severe.",
        ),
    ),
    Verdict(
        name="ankle-brachial-index", kind="choice", citation="Gerhard-Herman MD et al. 2016 AHA/ACC guideline. "
        "Circulation 2017;135:e726-e779",
        axes=(span("ankle", "50", "230", "2"), span("arm", "100", "180", "4")),
        ask="Ankle pressure {ankle}, arm pressure {arm} mmHg. Ankle-brachial index: abnormal up to 0.90, borderline "
        "0.91-0.99, normal 1.00-1.40, noncompressible above. Which is it?",
        labels=("abnormal", "borderline", "normal", "noncompressible"), classify=ankle_class,
        steps={"index": lambda ankle, arm: f"{ankle / arm:.2f}"},
        reasons=(
            "{ankle} / {arm} = {index}, at most 0.90: abnormal.",
            "{ankle} / {arm} = {index}, within 0.91-0.99: borderline.",
            "{ankle} / {arm} = {index}, within 1.00-1.40: normal.",
            "{ankle} / {arm} = {index}, above 1.40: noncompressible.",
        ),
    ),
    Verdict(
        name="mentzer-index", kind="choice", shuffled=True, citation="Mentzer WC. Lancet 1973;1:882",
        axes=(span("mcv", "55", "79"), span("rbc", "3.5", "6.6", "0.1")),
        ask="Microcytosis: mean cell volume {mcv} fL, red cells {rbc} ×10¹²/L. What does the Mentzer index suggest?",
        labels=("thalassaemia trait", "iron deficiency"), classify=mentzer_class,
        steps={"index": lambda mcv, rbc: f"{mcv / rbc:.1f}"},
        reasons=(
            "{mcv} / {rbc} = {index}, below 13: thalassaemia trait.",
            "{mcv} / {rbc} = {index}, above 13: iron deficiency.",
        ),
    ),
    Verdict(
        name="ascites-gradient", kind="choice", shuffled=True,
        citation="Runyon BA et al. Ann Intern Med 1992;117:215-220",
        axes=(span("serum", "2.0", "4.5", "0.1"), span("fluid", "0.3", "3.5", "0.1")),
        ask="Ascites: albumin {serum} g/dL in serum, {fluid} g/dL in the fluid. Does the gradient (threshold 1.1) "
        "indicate portal hypertension?",
        labels=("portal hypertension", "no portal hypertension"),
        classify=lambda serum, fluid: None if serum - fluid < D("0.2") else int(serum - fluid < D("1.1")),
        steps={"gap": lambda serum, fluid: f"{serum - fluid:.1f}"},
        reasons=(
            "{serum} - {fluid} = {gap}, at least 1.1: portal hypertension.",
            "{serum} - {fluid} = {gap}, below 1.1: no portal hypertension.",
        ),
    ),
)  # fmt: skip
