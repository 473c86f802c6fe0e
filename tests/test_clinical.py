"""The built-in questions: every formula and rule against numbers worked by hand, and the promises of the generator."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgrpo.data.clinical import TOPICS, generate
from medgrpo.data.clinical.ranges import Graded
from medgrpo.data.clinical.scores import Score
from medgrpo.data.clinical.topic import brief, fixed, listed
from medgrpo.errors import DataError
from medgrpo.types import Example

# Topic → numbers in the order of its axes (sex: 0 woman, 1 man; other codes count from 0) → answer, worked by hand.
WORKED: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "body-mass-index": [(("70", "1.75"), "22.9"), (("100", "2.00"), "25.0")],
    "ideal-body-weight": [(("1", "70.0"), "73.0"), (("0", "64.0"), "54.7")],
    "body-surface-area": [(("170", "70"), "1.82"), (("180", "80"), "2.00")],
    "tidal-volume": [(("1", "175", "6"), "423"), (("0", "160", "8"), "419")],
    "parkland": [(("70", "30"), "8400")],
    "mean-arterial-pressure": [(("120", "80"), "93"), (("90", "60"), "70")],
    "qtc-bazett": [(("400", "0.64"), "500"), (("360", "1.00"), "360")],
    "anion-gap": [(("140", "104", "24"), "12"), (("138", "100", "10"), "28")],
    "corrected-calcium": [(("7.6", "2.5"), "8.80")],
    "corrected-sodium": [(("120", "700"), "129.6")],
    "osmolality": [(("140", "5", "10"), "295")],
    "ldl-friedewald": [(("200", "50", "150"), "120")],
    "homa-ir": [(("5.0", "9"), "2.0"), (("7.0", "20"), "6.2")],
    "alveolar-gradient": [(("40", "90"), "10")],
    "creatinine-clearance": [(("40", "1", "72", "1.0"), "100"), (("40", "0", "72", "1.0"), "85")],
    "fractional-sodium-excretion": [(("20", "140", "100", "2.0"), "0.3"), (("60", "140", "20", "3.0"), "6.4")],
    "maddrey": [(("20.0", "12", "10"), "46.8")],
    "curb-65": [
        (("78", "1", "13", "34", "80", "50"), "5"),
        (("64", "0", "7", "29", "90", "61"), "0"),
        (("65", "0", "7", "29", "120", "60"), "2"),
    ],
    "cha2ds2-vasc": [
        (("64", "1", "0"), "0"),
        (("75", "0", "6"), "5"),  # hypertension and diabetes
        (("65", "1", "8"), "3"),  # stroke
        (("80", "0", "31"), "9"),
    ],
    "sirs": [
        (("38.6", "110", "24", "15"), "4"),
        (("38.0", "90", "20", "12"), "0"),
        (("35.9", "72", "12", "3.9"), "2"),
    ],
    "qsofa": [(("22", "100", "1"), "3"), (("21", "101", "0"), "0")],
    "glasgow-coma-score": [(("3", "4", "5"), "15"), (("0", "0", "0"), "3"), (("1", "1", "3"), "8")],
    "apgar": [(("2", "2", "2", "2", "2"), "10"), (("2", "1", "1", "1", "1"), "6")],
    "child-pugh": [
        (("1.2", "4.0", "1", "0", "0"), "class A"),
        (("2.7", "3.0", "5", "0", "0"), "class B"),  # 2 + 2 + 2 + 1 + 1 = 8
        (("2.7", "3.0", "5", "1", "0"), "class B"),  # 9
        (("2.7", "3.0", "5", "1", "1"), "class C"),  # 10
    ],
    "blood-pressure": [
        (("119", "79"), "normal"),
        (("120", "79"), "elevated"),
        (("129", "80"), "stage 1 hypertension"),
        (("118", "80"), "stage 1 hypertension"),
        (("139", "89"), "stage 1 hypertension"),
        (("140", "70"), "stage 2 hypertension"),
        (("125", "90"), "stage 2 hypertension"),
    ],
    "acid-base": [
        (("60", "26.0"), "respiratory acidosis"),
        (("25", "21.0"), "respiratory alkalosis"),
        (("26", "12.0"), "metabolic acidosis"),
        (("48", "36.0"), "metabolic alkalosis"),
    ],
    "winters-compensation": [
        (("12.0", "28"), "compensation as expected"),
        (("12.0", "34"), "additional respiratory acidosis"),
        (("12.0", "20"), "additional respiratory alkalosis"),
    ],
    "ards-severity": [(("90", "0.40"), "mild"), (("80", "0.40"), "moderate"), (("60", "0.60"), "severe")],
    "ankle-brachial-index": [
        (("90", "100"), "abnormal"),
        (("110", "120"), "borderline"),
        (("120", "120"), "normal"),
        (("140", "100"), "normal"),
        (("180", "120"), "noncompressible"),
    ],
    "mentzer-index": [(("60", "6.0"), "thalassaemia trait"), (("75", "4.0"), "iron deficiency")],
    "ascites-gradient": [(("3.0", "1.9"), "portal hypertension"), (("2.9", "1.9"), "no portal hypertension")],
}

# Topic → a scale's measure → value → class, at the published limits.
GRADED: dict[str, dict[str, dict[str, str]]] = {
    "electrolytes": {
        "Serum sodium": {"132": "low", "133": "normal", "146": "normal", "147": "high"},
        "Serum potassium": {"3.4": "low", "3.5": "normal", "5.3": "normal", "5.4": "high"},
        "Serum chloride": {"94": "low", "108": "normal", "109": "high"},
        "Serum bicarbonate": {"21": "low", "29": "normal", "30": "high"},
        "Serum phosphate": {"0.79": "low", "1.50": "normal", "1.51": "high"},
        "Serum magnesium": {"0.69": "low", "1.00": "normal", "1.01": "high"},
        "Adjusted serum calcium": {"2.19": "low", "2.60": "normal", "2.61": "high"},
    },
    "blood-count": {
        "A man's haemoglobin": {"129": "low", "180": "normal", "181": "high"},
        "A woman's haemoglobin": {"114": "low", "115": "normal", "166": "high"},
        "White cell count": {"3.5": "low", "11.0": "normal", "11.1": "high"},
        "Neutrophil count": {"1.7": "low", "7.5": "normal", "7.6": "high"},
        "Lymphocyte count": {"0.9": "low", "4.0": "normal", "4.1": "high"},
        "Platelet count": {"135": "low", "400": "normal", "405": "high"},
        "Mean cell volume": {"79": "low", "100": "normal", "101": "high"},
    },
    "blood-chemistry": {
        "Serum urea": {"2.4": "low", "7.8": "normal", "7.9": "high"},
        "Serum albumin": {"34": "low", "50": "normal", "51": "high"},
        "Serum total protein": {"59": "low", "80": "normal", "81": "high"},
        "A man's serum urate": {"195": "low", "430": "normal", "435": "high"},
        "A woman's serum urate": {"135": "low", "360": "normal", "365": "high"},
        "Alkaline phosphatase": {"28": "low", "130": "normal", "132": "high"},
        "Serum osmolality": {"274": "low", "295": "normal", "296": "high"},
    },
    "ion-disorder": {
        "Serum sodium": {"128": "hyponatraemia", "140": "normal", "150": "hypernatraemia"},
        "Serum potassium": {"3.0": "hypokalaemia", "6.1": "hyperkalaemia"},
        "Serum phosphate": {"0.50": "hypophosphataemia", "1.90": "hyperphosphataemia"},
        "Serum magnesium": {"0.50": "hypomagnesaemia", "1.30": "hypermagnesaemia"},
        "Adjusted serum calcium": {"2.00": "hypocalcaemia", "2.95": "hypercalcaemia"},
    },
    "diabetes-criteria": {
        "Fasting plasma glucose": {"99": "normal", "100": "prediabetes", "125": "prediabetes", "126": "diabetes"},
        "Two-hour plasma glucose in a 75 g tolerance test": {
            "139": "normal",
            "140": "prediabetes",
            "199": "prediabetes",
            "200": "diabetes",
        },
        "HbA1c": {"5.6": "normal", "5.7": "prediabetes", "6.4": "prediabetes", "6.5": "diabetes"},
    },
    "anaemia-severity": {
        "A man": {
            "79": "severe anaemia",
            "80": "moderate anaemia",
            "109": "moderate anaemia",
            "110": "mild anaemia",
            "129": "mild anaemia",
            "130": "no anaemia",
        },
        "A woman who is not pregnant": {"119": "mild anaemia", "120": "no anaemia", "79": "severe anaemia"},
        "A pregnant woman": {
            "69": "severe anaemia",
            "70": "moderate anaemia",
            "99": "moderate anaemia",
            "100": "mild anaemia",
            "109": "mild anaemia",
            "110": "no anaemia",
        },
    },
    "ldl-category": {
        "LDL cholesterol": {
            "99": "optimal",
            "100": "near optimal",
            "130": "borderline high",
            "160": "high",
            "189": "high",
            "190": "very high",
        }
    },
    "triglyceride-category": {
        "Fasting triglycerides": {"149": "normal", "150": "borderline high", "499": "high", "500": "very high"}
    },
    "albuminuria": {"Urine albumin to creatinine ratio": {"29": "A1", "30": "A2", "300": "A2", "301": "A3"}},
    "egfr-category": {
        "Estimated GFR": {"90": "G1", "60": "G2", "59": "G3a", "44": "G3b", "29": "G4", "15": "G4", "14": "G5"}
    },
    "bmi-class": {
        "body mass index": {
            "18.4": "underweight",
            "18.5": "normal",
            "24.9": "normal",
            "25.0": "overweight",
            "30.0": "obesity class I",
            "34.9": "obesity class I",
            "35.0": "obesity class II",
            "40.0": "obesity class III",
        }
    },
    "copd-grade": {
        "FEV1 after bronchodilator": {"80": "GOLD 1", "79": "GOLD 2", "50": "GOLD 2", "49": "GOLD 3", "29": "GOLD 4"}
    },
    "anaemia-type": {
        "mean cell volume": {"79.9": "microcytic", "80.0": "normocytic", "100.0": "normocytic", "100.1": "macrocytic"}
    },
}  # fmt: skip

DIGEST_SCRIPT = (
    "import hashlib, json; from medgrpo.data.clinical import generate; "
    "rows = [e.model_dump() for e in generate(200, 0)]; "
    "print(hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest())"
)


@pytest.fixture(scope="module")
def two_thousand() -> list[Example]:
    return generate(2000, 7)


@pytest.mark.parametrize(
    ("topic", "numbers", "answer"), [(topic, *case) for topic, cases in WORKED.items() for case in cases]
)
def test_answer_worked_by_hand(topic: str, numbers: tuple[str, ...], answer: str) -> None:
    example = TOPICS[topic].write("x", tuple(map(Decimal, numbers)), Random(0))
    assert (example.gold if example.kind == "numeric" else example.gold_text) == answer
    assert answer in example.reasoning or example.kind == "choice"


@pytest.mark.parametrize(
    ("topic", "measure", "value", "answer"),
    [(t, m, v, a) for t, scales in GRADED.items() for m, values in scales.items() for v, a in values.items()],
)
def test_class_at_the_published_limits(topic: str, measure: str, value: str, answer: str) -> None:
    writer = TOPICS[topic]
    assert isinstance(writer, Graded)
    index = [s.measure for s in writer.scales].index(measure)
    example = writer.write("x", (Decimal(index), Decimal(value)), Random(0))
    assert example.gold_text == answer
    assert measure in example.question and value in example.question


def test_every_topic_and_scale_has_a_case_worked_by_hand() -> None:
    assert set(WORKED) | set(GRADED) == set(TOPICS)
    for name, scales in GRADED.items():
        writer = TOPICS[name]
        assert isinstance(writer, Graded) and {s.measure for s in writer.scales} == set(scales)


@pytest.mark.parametrize(
    ("pco2", "hco3", "ph"),
    [("60", "26.0", "7.25"), ("26", "12.0", "7.28"), ("25", "21.0", "7.54"), ("48", "36.0", "7.49")],
)
def test_printed_ph_obeys_henderson_hasselbalch(pco2: str, hco3: str, ph: str) -> None:
    assert f"pH {ph}," in TOPICS["acid-base"].write("x", (Decimal(pco2), Decimal(hco3)), Random(0)).question


def test_question_states_what_was_drawn() -> None:
    example = TOPICS["cha2ds2-vasc"].write("x", (Decimal(75), Decimal(0), Decimal(6)), Random(0))
    assert example.question.startswith("Atrial fibrillation in a woman aged 75: hypertension and diabetes.")
    assert (
        "no other risk factor"
        in TOPICS["cha2ds2-vasc"].write("x", (Decimal(75), Decimal(0), Decimal(0)), Random(0)).question
    )
    sodium = TOPICS["electrolytes"].write("x", (Decimal(0), Decimal(128)), Random(0))
    assert sodium.question == "Serum sodium is 128 mmol/L (reference range 133-146). Is it low, normal or high?"
    assert sodium.options == {"A": "low", "B": "normal", "C": "high"} and sodium.gold == "A"
    assert sodium.reasoning == "128 is below 133, so the answer is low."


def test_the_same_in_every_process() -> None:
    digests = []
    for hash_seed in ("1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST_SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        digests.append(done.stdout.strip())
    rows = [e.model_dump() for e in generate(200, 0)]
    here = hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    assert digests == [here, here]
    assert generate(200, 1) != generate(200, 0)


def test_a_question_depends_on_seed_topic_and_draw_only() -> None:
    alone = {e.id: e for e in generate(20, 3, ["anion-gap"])}
    among_all = {e.id: e for e in generate(1000, 3) if e.topic == "anion-gap"}
    shared = alone.keys() & among_all.keys()
    assert len(shared) == 20 and all(alone[i] == among_all[i] for i in shared)
    assert "clinical/anion-gap/000019" in alone


def test_no_numbers_are_asked_twice(two_thousand: list[Example]) -> None:
    assert len({e.id for e in two_thousand}) == 2000
    assert len({(e.topic, e.question) for e in two_thousand}) == 2000


@pytest.mark.parametrize("topic", TOPICS)
def test_distinct_numbers_make_distinct_questions(topic: str) -> None:
    """So that distinct question texts stand for distinct numbers; checked on up to 3,000 numbers of each topic."""
    writer, rng = TOPICS[topic], Random(0)
    numbers = [n for pool in writer.pools() for n in pool]
    assert len(set(numbers)) == len(numbers)
    some = rng.sample(numbers, min(3000, len(numbers)))
    assert len({writer.write("x", n, rng).question for n in some}) == len(some)


def test_two_topics_never_ask_about_the_same_numbers() -> None:
    examples = generate(600, 5, ["electrolytes", "ion-disorder"])
    shown = [{tuple(re.findall(r"[\d.]+", e.question)) for e in examples if e.topic == topic} for topic in TOPICS]
    assert sum(map(len, shown)) == len(set().union(*shown)) == 600


def test_topics_take_turns(two_thousand: list[Example]) -> None:
    counts = Counter(e.topic for e in two_thousand[: 20 * len(TOPICS)])
    assert set(counts) == set(TOPICS) and set(counts.values()) == {20}


def test_every_row_is_well_formed(two_thousand: list[Example]) -> None:
    for e in two_thousand:
        text = e.question + e.reasoning + "".join(e.options.values()) + e.gold
        assert not set("<>{}") & set(text), e
        assert len(e.question.split()) <= 45 and 0 < len(e.reasoning.split()) <= 35, e
        assert e.citation and e.kind == TOPICS[e.topic].kind
        if e.kind == "choice":
            assert e.gold in e.options and len(set(e.options.values())) == len(e.options) >= 2
            assert list(e.options) == [chr(65 + i) for i in range(len(e.options))]
            assert e.gold_text in e.reasoning
        elif e.kind == "numeric":
            digits = len(e.gold.partition(".")[2])
            assert fixed(Decimal(e.gold), digits) == e.gold
            assert Decimal(str(e.tolerance)) >= Decimal(5).scaleb(-digits - 1)
            assert e.gold in e.reasoning and (e.unit or e.topic == "homa-ir") and not e.options
        else:
            assert e.gold and not e.options and e.tolerance == 0 and e.gold in e.reasoning


@pytest.mark.parametrize("topic", [n for n, t in TOPICS.items() if t.kind != "numeric" or isinstance(t, Score)])
def test_classes_are_equally_frequent(topic: str) -> None:
    pools = TOPICS[topic].pools()
    answers = [e.gold_text for e in generate(10 * len(pools), 5, [topic])]
    if topic == "ion-disorder":  # hyponatraemia and hypokalaemia are of one class
        answers = ["normal" if a == "normal" else a.removeprefix("hyp")[0] for a in answers]
    counts = Counter(answers)
    assert len(counts) == len(pools) and set(counts.values()) == {10}


def test_the_order_of_classes_can_not_be_guessed() -> None:
    golds = "".join(e.gold for e in generate(60, 0, ["electrolytes"]))
    assert len({golds[i : i + 3] for i in range(0, 60, 3)}) >= 4


@pytest.mark.parametrize("topic", ["winters-compensation", "mentzer-index", "ascites-gradient"])
def test_shuffled_options_leave_no_favourite_letter(topic: str) -> None:
    rows = generate(240, 11, [topic])
    share = 1 / len(rows[0].options)
    for letter in rows[0].options:
        assert abs(sum(e.gold == letter for e in rows) / 240 - share) < 0.1
    assert len({tuple(e.options.values()) for e in rows}) > 1


def test_an_exhausted_topic_stops_and_the_others_go_on() -> None:
    # G5 has the values 1 to 14, the fewest of six categories: 6 × 14 questions
    assert len(generate(84, 0, ["egfr-category"])) == 84
    with pytest.raises(DataError, match=r"egfr-category.* 84 "):
        generate(85, 0, ["egfr-category"])
    counts = Counter(e.topic for e in generate(300, 0, ["egfr-category", "anion-gap"]))
    assert counts == {"egfr-category": 84, "anion-gap": 216}


def test_unknown_topics_are_named_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"astrology.*anion-gap"):
        generate(10, 0, ["anion-gap", "astrology"])
    with pytest.raises(DataError, match="-1"):
        generate(-1, 0)
    assert generate(0, 0) == []


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 60),
    topics=st.sets(st.sampled_from(sorted(TOPICS)), min_size=1, max_size=3),
)
def test_asking_for_more_rows_only_adds_rows(seed: int, rows: int, topics: set[str]) -> None:
    few, chosen = generate(rows // 2, seed, sorted(topics)), sorted(topics)
    assert generate(rows, seed, chosen)[: rows // 2] == few
    assert {e.topic for e in few} <= topics


@given(value=st.decimals("-10000", "10000", places=5), digits=st.integers(0, 4))
def test_rounding_is_half_up_and_never_minus_zero(value: Decimal, digits: int) -> None:
    text = fixed(value, digits)
    assert len(text.partition(".")[2]) == digits
    assert abs(Decimal(text) - value) <= Decimal(5).scaleb(-digits - 1)
    assert not (text.startswith("-") and Decimal(text) == 0)
    assert Decimal(brief(value)) == Decimal(fixed(value, 4))


def test_rounding_of_ties_and_lists() -> None:
    assert [fixed(Decimal(v), 1) for v in ("12.25", "12.35", "-0.04")] == ["12.3", "12.4", "0.0"]
    assert [brief(Decimal(v)) for v in ("100", "1E+2", "2.50", "0.00004")] == ["100", "100", "2.5", "0"]
    assert [listed(w) for w in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a or b", "a, b or c"]
