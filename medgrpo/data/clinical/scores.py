"""Scores that add up points: the items are tables, the total or its class is the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from medgrpo.data.clinical.topic import SEX, Axis, Formula, Numbers, Topic, Verdict, Worked, grid, listed, pick, span
from medgrpo.types import Example, Kind

HISTORY = ("heart failure", "hypertension", "diabetes", "prior stroke", "vascular disease")


def histories() -> Axis:
    """Every subset of HISTORY, coded as a bit mask."""
    words = []
    for mask in range(2 ** len(HISTORY)):
        present = [text for bit, text in enumerate(HISTORY) if mask >> bit & 1]
        words.append(listed(present, "and") or "no other risk factor")
    return pick("history", *words)


def has(history: Decimal, name: str) -> int:
    """1 where the coded history contains the item, else 0."""
    return int(history) >> HISTORY.index(name) & 1


@dataclass(frozen=True, kw_only=True)
class Score(Worked):
    """A sum of items; every possible total is equally frequent in the questions."""

    kind: Kind = "numeric"
    items: tuple[tuple[str, Callable[..., int]], ...]
    """Item's name → its points."""
    where: Callable[..., bool] | None = None

    def total(self, numbers: Numbers) -> int:
        """The sum of the items' points."""
        return sum(points(*numbers) for _, points in self.items)

    def pools(self) -> list[list[Numbers]]:
        """The numbers by total, from the lowest total."""
        pools: dict[int, list[Numbers]] = {}
        for numbers in grid(self.axes, self.where):
            pools.setdefault(self.total(numbers), []).append(numbers)
        return [pools[total] for total in sorted(pools)]

    def write(self, row_id: str, numbers: Numbers, rng: Random) -> Example:
        """The reasoning names each item's points, then the total."""
        parts = ", ".join(f"{name} {points(*numbers)}" for name, points in self.items)
        gold = str(self.total(numbers))
        return Example(
            id=row_id, kind=self.kind, question=self.ask.format_map(self.shown(numbers)), gold=gold, tolerance=0.5,
            unit="points", topic=self.name, reasoning=f"Points: {parts}. Total {gold}.", citation=self.citation,
        )  # fmt: skip


def child_pugh_points(bili: Decimal, alb: Decimal, pt: Decimal, ascites: Decimal, enceph: Decimal) -> tuple[int, ...]:
    """Points (1 to 3) of bilirubin mg/dL, albumin g/dL, prothrombin time s over control, ascites, encephalopathy."""
    return (
        1 + (bili >= 2) + (bili > 3),
        1 + (alb <= Decimal("3.5")) + (alb < Decimal("2.8")),
        1 + (pt >= 4) + (pt > 6),
        1 + int(ascites),
        1 + int(enceph),
    )


def child_pugh_class(*patient: Decimal) -> int:
    """0, 1, 2 for class A (5-6 points), B (7-9), C (10-15)."""
    total = sum(child_pugh_points(*patient))
    return (total >= 7) + (total >= 10)


SCORES: tuple[Topic, ...] = (
    Score(
        name="curb-65", citation="Lim WS et al. Thorax 2003;58:377-382",
        axes=(span("age", "41", "93", "4"), pick("mind", "no confusion", "new confusion"), span("urea", "4", "13", "3"),
              span("rr", "18", "34", "4"), span("sbp", "80", "140", "20"), span("dbp", "50", "80", "10")),
        ask="Pneumonia at age {age}: {mind}, urea {urea} mmol/L, respiratory rate {rr}/min, blood pressure "
        "{sbp}/{dbp} mmHg. What is the CURB-65 score?",
        where=lambda age, mind, urea, rr, sbp, dbp: sbp - dbp >= 20,
        items=(
            ("confusion", lambda age, mind, urea, rr, sbp, dbp: int(mind)),
            ("urea (above 7)", lambda age, mind, urea, rr, sbp, dbp: int(urea > 7)),
            ("rate (30 or more)", lambda age, mind, urea, rr, sbp, dbp: int(rr >= 30)),
            ("pressure (below 90 or 60 or less)", lambda age, mind, urea, rr, sbp, dbp: int(sbp < 90 or dbp <= 60)),
            ("age (65 or more)", lambda age, mind, urea, rr, sbp, dbp: int(age >= 65)),
        ),
    ),
    Score(
        name="cha2ds2-vasc", citation="Lip GYH et al. Chest 2010;137:263-272",
        axes=(span("age", "40", "95"), SEX, histories()),
        ask="Atrial fibrillation in a {sex} aged {age}: {history}. What is the CHA2DS2-VASc score?",
        items=(
            ("heart failure", lambda age, sex, history: has(history, "heart failure")),
            ("hypertension", lambda age, sex, history: has(history, "hypertension")),
            ("age", lambda age, sex, history: (age >= 65) + (age >= 75)),
            ("diabetes", lambda age, sex, history: has(history, "diabetes")),
            ("stroke", lambda age, sex, history: 2 * has(history, "prior stroke")),
            ("vascular disease", lambda age, sex, history: has(history, "vascular disease")),
            ("sex", lambda age, sex, history: 1 - int(sex)),
        ),
    ),
    Score(
        name="sirs", citation="Bone RC et al. Chest 1992;101:1644-1655",
        axes=(span("temp", "35.2", "39.4", "0.6"), span("hr", "72", "132", "6"), span("rr", "12", "32", "2"),
              span("wbc", "2", "20", "2")),
        ask="Temperature {temp} °C, heart rate {hr}/min, respiratory rate {rr}/min, white cells {wbc} ×10⁹/L. "
        "How many SIRS criteria are met?",
        items=(
            ("temperature (below 36 or above 38)", lambda temp, hr, rr, wbc: int(temp > 38 or temp < 36)),
            ("heart rate (above 90)", lambda temp, hr, rr, wbc: int(hr > 90)),
            ("respiratory rate (above 20)", lambda temp, hr, rr, wbc: int(rr > 20)),
            ("white cells (below 4 or above 12)", lambda temp, hr, rr, wbc: int(wbc > 12 or wbc < 4)),
        ),
    ),
    Score(
        name="qsofa", citation="Seymour CW et al. JAMA 2016;315:762-774",
        axes=(span("rr", "14", "34"), span("sbp", "80", "150", "2"), pick("mind", "normal", "altered")),
        ask="Suspected infection: respiratory rate {rr}/min, systolic pressure {sbp} mmHg, {mind} mentation. "
        "What is the qSOFA score?",
        items=(
            ("rate (22 or more)", lambda rr, sbp, mind: int(rr >= 22)),
            ("pressure (100 or less)", lambda rr, sbp, mind: int(sbp <= 100)),
            ("altered mentation", lambda rr, sbp, mind: int(mind)),
        ),
    ),
    Formula(
        name="glasgow-coma-score", citation="Teasdale G, Jennett B. Lancet 1974;2:81-84; the 15 points: "
        "Acta Neurochir 1976;34:45-55",
        axes=(
            pick("eye", "do not open", "open to pain", "open to speech", "open spontaneously"),
            pick("verbal", "none", "incomprehensible sounds", "inappropriate words", "confused", "orientated"),
            pick("motor", "none", "extension", "abnormal flexion", "withdrawal", "localising", "obeying commands"),
        ),
        ask="Eyes {eye}; verbal response: {verbal}; motor response: {motor}. What is the Glasgow coma score (3-15)?",
        compute=lambda eye, verbal, motor: eye + verbal + motor + 3,
        steps={
            "e": lambda eye, verbal, motor: eye + 1,
            "v": lambda eye, verbal, motor: verbal + 1,
            "m": lambda eye, verbal, motor: motor + 1,
        },
        work="Eyes {e}, verbal {v}, motor {m}: {e} + {v} + {m} = {gold}.", unit="points", tolerance="0.5",
    ),
    Formula(
        name="apgar", citation="Apgar V. Curr Res Anesth Analg 1953;32:260-267",
        axes=(
            pick("pulse", "no pulse", "pulse 80", "pulse 140"),
            pick("breath", "not breathing", "slow irregular breathing", "crying strongly"),
            pick("tone", "limp", "some flexion", "active motion"),
            pick("reflex", "no reflex response", "grimace", "sneeze on stimulation"),
            pick("colour", "pale", "pink with blue limbs", "pink all over"),
        ),
        ask="Newborn: {pulse}, {breath}, {tone}, {reflex}, {colour}. What is the Apgar score?",
        compute=lambda *items: sum(items, Decimal(0)),
        steps={"sum": lambda *items: " + ".join(str(i) for i in items)},
        where=lambda pulse, breath, tone, reflex, colour: pulse > 0 or breath + tone + reflex == 0,
        work="Pulse, breathing, tone, reflex, colour: {sum} = {gold}.", unit="points", tolerance="0.5",
    ),
    Verdict(
        name="child-pugh", kind="choice", citation="Pugh RNH et al. Br J Surg 1973;60:646-649",
        axes=(span("bili", "0.7", "5.2", "0.5"), span("alb", "2.2", "4.4", "0.2"), span("pt", "1", "9", "2"),
              pick("ascites", "no", "slight", "moderate"),
              pick("enceph", "no encephalopathy", "encephalopathy grade 2", "encephalopathy grade 3")),
        ask="Cirrhosis: bilirubin {bili} mg/dL, albumin {alb} g/dL, prothrombin time {pt} s over control, {ascites} "
        "ascites, {enceph}. Which Child-Pugh class?",
        labels=("class A", "class B", "class C"), classify=child_pugh_class,
        steps={
            "points": lambda *patient: " + ".join(map(str, child_pugh_points(*patient))),
            "total": lambda *patient: Decimal(sum(child_pugh_points(*patient))),
        },
        reasons=tuple(f"Points for bilirubin, albumin, prothrombin, ascites, encephalopathy: {{points}} = {{total}}; "
                      f"{rule}." for rule in ("5-6 is class A", "7-9 is class B", "10-15 is class C")),
    ),
)  # fmt: skip
