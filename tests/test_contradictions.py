"""Contradictions: a table per family, what must not be taken for one, and figures on real golds."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgrpo.contradictions import MAX_CHARACTERS, Family, _compare, _cut, find_contradiction
from medgrpo.contradictions.cues import find_cues
from medgrpo.contradictions.drugs import find_drugs
from medgrpo.contradictions.tokens import read_tokens, stem
from medgrpo.data import PresetSource
from medgrpo.data.presets import PresetName

# --- negation

DENIALS = """no {x}|not {x}|there is no {x}|it is not {x}|it isn't {x}|it isn’t {x}|without {x}|absence of {x}|non-{x}
no evidence of {x}|negative for {x}|he denies {x}|free of {x}|{x} is ruled out|{x} is excluded|{x} is absent
{x} is unlikely|{x} was not found|{x} has never been seen|{x}: absent|{x}? No.|{x}. This is not the case.|{x} - no
{x}, which is false|It is not, in my view, {x}|the answer is not: {x}|not so: {x}|anything but {x}|rather than {x}
neither {x} nor anything else|{x} is the wrong answer|{x} is not warranted|{x} cannot be the cause|{x} never happens
it is false that there is {x}|everything except {x}|{x} isnt it|{x} (not seen)|{x} can be discarded|{x}-negative
avoid {x}|{x} should be avoided|{x} is contraindicated|the opposite of {x}|a diagnosis other than {x}|w/o {x}
it can't be {x}|{x} is no longer likely|nothing suggests {x}|we can exclude {x}|{x} fails to explain this
{x} is a lie|it is a lie that it is {x}|{x} is nonsense|{x}? No way|there is no way that it is {x}|{x}? Nope"""
DENYING = [form for line in DENIALS.splitlines() for form in line.split("|")]


@pytest.mark.parametrize("form", DENYING)
@pytest.mark.parametrize("gold", ["treatment", "renal artery stenosis", "8", "Kegel exercises"])
def test_a_denied_gold_contradicts_it(form: str, gold: str) -> None:
    assert both_ways(form.format(x=gold), gold) == "negation"


@pytest.mark.parametrize("form", DENYING)
def test_a_denial_agrees_with_itself(form: str) -> None:
    assert both_ways(form.format(x="fever"), form.format(x="FEVER").replace(" ", "  ")) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("irreversible damage", "reversible damage"),
        ("asymptomatic", "symptomatic"),
        ("atypical pneumonia", "typical pneumonia"),
        ("unstable angina", "stable angina"),
        ("non-invasive", "invasive"),
        ("noninvasive", "invasive"),
        ("incompetent valve", "competent valve"),
        ("fever without cough", "fever with cough"),
        ("fever, no cough", "fever and cough"),
        ("fever but no cough", "fever and cough"),
        ("occurs within five years", "does not occur within five years"),
        ("cannot be commented", "can be commented"),
        ("all of the above", "not all of the above"),
        ("stop aspirin and start heparin", "start aspirin and heparin"),
        ("not type 2 diabetes", "type 2 diabetes"),
    ],
)
def test_a_word_negated_in_one_text_only(one: str, other: str) -> None:
    assert both_ways(one, other) == "negation"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hypertension, not due to renal disease", "hypertension"),
        ("Hypertension not due to renal disease", "hypertension"),
        ("Hypertension without renal disease", "hypertension"),
        ("hypertension, not hypotension", "hypertension"),
        ("Hypertension, since the other options do not fit.", "hypertension"),
        ("Hypertension. No other explanation fits", "hypertension"),
        ("Hypertension because nothing else fits", "hypertension"),
        ("type 1, not type 2", "type 1"),
        ("fever cannot be ruled out", "fever"),
        ("no doubt fever", "fever"),
        ("fever, no doubt", "fever"),
        ("not only fever", "fever"),
        ("irreversible damage", "damage that is not reversible"),
        ("No fever, cough or rash", "no fever, no cough and no rash"),
        ("No fever cough", "No fever, cough"),
        ("absence of the left kidney", "left kidney absence"),
        ("stop metformin and start insulin", "start insulin and stop metformin"),
        ("inpatient care", "care of the patient in hospital"),
        ("aortic dissection", "section of the aortic wall"),
    ],
)
def test_what_denies_something_else(one: str, other: str) -> None:
    assert both_ways(one, other) is None


LONG = """The fever of this patient began three days ago in the hospital, the valve shows vegetations on the scan, the blood
grows streptococci, and the fever with the new murmur makes endocarditis of the valve the diagnosis that fits best"""
DENIED_ONCE = {
    "began": "never began",
    "shows": "does not show",
    "blood": "no blood",
    "with": "without",
    "makes": "hardly makes",
    "hospital,": "hospital, nope,",
}


@pytest.mark.parametrize(("word", "denial"), DENIED_ONCE.items())
def test_a_long_text_with_one_denial_more(word: str, denial: str) -> None:
    assert both_ways(LONG.replace(word, denial, 1), LONG) == "negation"


@pytest.mark.parametrize(
    "other",
    [
        LONG.upper(),
        LONG.replace(", and ", "; "),
        LONG.replace("makes", "doesn't not make"),
        LONG.replace("The fever", "Not only the fever"),
        "no fever, no murmur, " + LONG,
    ],
)
def test_a_long_text_with_no_denial_more(other: str) -> None:
    assert both_ways(other, LONG) is None


def test_nonsense_mutations_deny_nothing() -> None:
    assert both_ways("nonsense mutation of dystrophin", "mutation of dystrophin") is None


def test_cues_are_the_longest_phrases() -> None:
    cues = find_cues(read_tokens("there is no evidence of fever, not only cough; no rash"))
    assert [(cue.start, cue.end) for cue in cues] == [(2, 5), (11, 12)]


# --- the other families

CONTRADICTORY: list[tuple[Family, str, str]] = [
    ("number", "5 mg", "10 mg"),
    ("number", "vitamin B12", "vitamin B6"),
    ("number", "CD4", "CD8"),
    ("number", "T3", "T4"),
    ("number", "CYP3A4", "CYP2D6"),
    ("number", "IL-6", "IL-2"),
    ("number", "5HT3", "5HT4"),
    ("number", "C5, C6", "C6, C6"),
    ("number", "factor V", "factor VIII"),
    ("number", "grade II", "grade 3"),
    ("number", "third cranial nerve", "fourth cranial nerve"),
    ("number", "ten weeks", "twelve weeks"),
    ("number", "once daily", "twice daily"),
    ("number", "5 mg for 3 days", "5 mg for 4 days"),
    ("number", "1 in 2", "2 in 2"),
    ("number", "0.4 g/dL", "0.5 g/dL"),
    ("number", "twenty-five minutes", "twenty-six minutes"),
    ("number", "IgA", "IgG"),
    ("number", "hepatitis B", "hepatitis C"),
    ("number", "HBV", "hepatitis C"),
    ("number", "vitamin K", "vit. A"),
    ("number", "vitamin B12", "vitamin D"),
    ("number", "blood group A", "blood type B"),
    ("number", "T cell", "B cells"),
    ("number", "T- and B-lymphocytes: T-cell", "NK cell"),
    ("number", "Rh+", "Rh-"),
    ("number", "Rh(+)", "Rh−"),
    ("number", "CD4+", "CD4-"),
    ("negation", "CD4+", "CD4 negative"),
    ("number", "type A", "type B"),
    ("number", "influenza A and B", "influenza B, C"),
    ("number", "HLA-B27", "HLA-B51"),
    ("number", "MAO-A", "MAO-B"),
    ("number", "CN III", "CN IV"),
    ("number", "stage IIIA", "stage 3B"),
    ("number", "grade 2", "grade 3"),
    ("number", "L4-L5", "L5-S1"),
    ("number", "L4-5", "L5/S1"),
    ("number", "C5/C6 roots", "C6/C7 roots"),
    ("number", "Mobitz I", "Mobitz II"),
    ("number", "factor VIII", "factor IX"),
    ("number", "1/2 tablet", "1/4 tablet"),
    ("unit", "5 mg", "5 g"),
    ("unit", "5 mg/kg", "5 mg"),
    ("unit", "7 days", "7 weeks"),
    ("unit", "one week", "one month"),
    ("unit", "5 cmH2O", "5 mmHg"),
    ("unit", "37 °C", "37 °F"),
    ("side", "left lung", "right lung"),
    ("side", "The right answer is: left lung", "right lung"),
    ("side", "bilateral", "unilateral"),
    ("side", "bilateral stenosis", "left stenosis"),
    ("side", "ipsilateral ptosis", "contralateral ptosis"),
    ("side", "upper lobe", "lower lobe"),
    ("side", "anterior cerebral artery", "posterior cerebral artery"),
    ("side", "medial meniscus", "lateral meniscus"),
    ("side", "proximal tubule", "distal tubule"),
    ("side", "superior mesenteric artery", "inferior mesenteric artery"),
    ("side", "dorsal horn", "ventral horn"),
    ("side", "RUQ pain", "LUQ pain"),
    ("side", "left-to-right shunt", "right-to-left shunt"),
    ("side", "lower premolar and upper canine", "upper premolar and lower canine"),
    ("side", "inability to smile on the left", "inability to smile on the right"),
    ("opposite", "increased preload", "preload decreases"),
    ("opposite", "elevated TSH", "low TSH"),
    ("opposite", "increased calcium, decreased phosphate", "decreased calcium, increased phosphate"),
    ("opposite", "hyperkalaemia", "hypokalemia"),
    ("opposite", "hypertensive", "hypotension"),
    ("opposite", "tachycardia", "bradycardia"),
    ("opposite", "metabolic acidosis", "metabolic alkalosis"),
    ("opposite", "positive selection", "negative selection"),
    ("opposite", "benign tumour", "malignant tumor"),
    ("opposite", "beta agonists", "beta antagonist"),
    ("opposite", "afferent arteriole", "efferent arteriole"),
    ("opposite", "systolic murmur", "diastolic murmur"),
    ("opposite", "before meals", "after meals"),
    ("opposite", "acute pancreatitis", "chronic pancreatitis"),
    ("opposite", "male", "females"),
    ("opposite", "pre-renal", "postrenal"),
    ("opposite", ">14", "<14"),
    ("opposite", "≥ 14 weeks", "≤14"),
    ("opposite", "more than 14", "less than 14.0"),
    ("opposite", "above 1,000", "below 1000"),
    ("opposite", "14 weeks or more", "fewer than 14 weeks"),
    ("opposite", "no less than 14", "at most 14"),
    ("opposite", "polyuria", "oliguria"),
    ("opposite", "polyuric", "anuric"),
    ("opposite", "amenorrhoea", "oligomenorrhea"),
    ("opposite", "beta agonist", "beta blocker"),
    ("opposite", "weight gain", "weight loss"),
    ("opposite", "thin membrane", "thick membrane"),
    ("opposite", "open angle", "closed angle"),
    ("drug", "paracetamol", "ibuprofen"),
    ("drug", "noradrenaline", "adrenaline"),
    ("drug", "Tylenol", "naproxen"),
    ("drug", "amoxicillin-clavulanate", "ceftriaxone"),
    ("drug", "Start metoprolol.", "labetalol"),
]
AGREEING = [
    ("5 mg", "0.005 g"),
    ("5 mg", "5.0 mg (half of 10 mg)"),
    ("8", "8 hours"),
    ("3 mM", "3 MM"),
    ("37 C", "37 c"),
    ("1/2 tablet", "0.5 tablet"),
    ("1 ½ tablets", "1.5 tablets"),
    ("power 4/5", "4 out of 5"),
    ("hepatitis b", "Hepatitis B (HBV)"),
    ("vitamins A, D and K", "vit K"),
    ("B and T cells", "T-lymphocytes"),
    ("hepatitis B", "hepatitis virus"),
    ("a cell of the liver", "B cell"),
    ("IgG4", "immunoglobulin G"),
    ("CD4+ cells", "CD4 positive cells"),
    ("L4-5", "L4/L5."),
    ("stage IIIA", "stage 3a"),
    ("CN III", "third cranial nerve"),
    (">14 days", "14 days or longer"),
    ("no more than 14", "at most 14"),
    ("moreover 14", "less than 14"),
    (">14 and <20", "more than 14, less than 20"),
    ("beta blocker", "beta antagonist"),
    ("adrenaline", "Epinephrine"),
    ("nor-adrenaline", "norepinephrine"),
    ("infection", "disinfection"),
    ("traction", "distraction"),
    ("order", "disorder"),
    ("basic metabolic panel", "acidic urine, metabolic panel"),
    ("ten weeks", "10 weeks"),
    ("one hundred", "100"),
    ("10⁹ cells", "10^9 cells"),
    ("IL-6", "il6"),
    ("pH 7.4", "pH7.4"),
    ("type II", "Type 2"),
    ("cranial nerve III", "third cranial nerve"),
    ("IV fluids, 5 mL", "5 mL of intravenous fluid, then 1 L"),
    ("left lung", "The right answer is: left lung"),
    ("left lung", "left lung, never the right lung"),
    ("X increased, Y decreased", "increased X and decreased Y"),
    ("hyperkalaemia", "hyperkalemic"),
    ("raised TSH", "high TSH"),
    ("euvolaemic", "normovolemic"),
    ("paracetamol", "Acetaminophen"),
    ("Tylenol", "acetaminophen 1 g"),
    ("sodium valproate", "valproic acid"),
    ("insulin", "insulin glargine"),
    ("salbutamol", "Albuterol (ventolin)"),
    ("antibiotics", "amoxicillin"),
    ("", ""),
    ("", "fever"),
    ("fever", "cough"),
    ("oedema of the lung", "lung edema"),
]


@pytest.mark.parametrize(("family", "one", "other"), CONTRADICTORY)
def test_contradictions(family: Family, one: str, other: str) -> None:
    assert both_ways(one, other) == family
    assert both_ways(f"The answer is {one}.".upper(), other) == family


@pytest.mark.parametrize(("one", "other"), AGREEING)
def test_no_contradictions(one: str, other: str) -> None:
    assert both_ways(one, other) is None


@pytest.mark.parametrize(("family", "one", "other"), CONTRADICTORY)
def test_an_answer_that_says_more_contradicts_nothing(family: Family, one: str, other: str) -> None:
    assert both_ways(f"{one}; {other}", one) is None


def test_drugs_have_one_name_each() -> None:
    assert find_drugs("Tylenol, (PARACETAMOL) or acetaminophen.") == {"acetaminophen"}
    assert find_drugs("co-trimoxazole") == {"co-trimoxazole"}
    assert find_drugs("Surgery of the left nerve, with blood and oxygen; antibiotics at home") == frozenset()


@pytest.mark.parametrize(
    "words", ["reverses reversed reversible reversing", "oedema edema", "tumour tumors", "haematoma hematomas"]
)
def test_forms_of_a_word_share_a_stem(words: str) -> None:
    assert len({stem(word) for word in words.split()}) == 1


# --- any text

PIECES = """
no not without is , . ; left right upper never ruled out X-negative 5 mg 5g B12 IV hyper hypokalaemia aspirin ibuprofen un
irreversible reversible free of \u0301 ² ½ ﷺ - — ’ n't cannot first second 10^9 e1 1e999
"""
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from([*PIECES.split(), "\ud800"]), max_size=14).map(" ".join)


@settings(max_examples=300)
@given(TEXTS, TEXTS)
def test_any_two_texts_are_compared_alike_both_ways(one: str, other: str) -> None:
    assert both_ways(one, other) in {None, "negation", "number", "unit", "side", "opposite", "drug"}
    assert find_contradiction(one, one) is None


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "not ",
            "no, ",
            "5 mg ",
            "1 2 ",
            "left right ",
            "aspirin ",
            "hyper ",
            "a",
            " ",
            ".",
            "-",
            "1",
            "1,",
            "X-",
            "(",
        ),
        *(
            "T and B ",
            "T,",
            "vitamin a,b",
            "x-",
            "Rh+ ",
            "L4-",
            "1/2 ",
            "> 1",
            "1 or ",
            "1,111",
            "III ",
            "grade ",
            "no more ",
        ),
        *("B1 C2 ", "\u0301", "\ud800x ", "ﷺ", "six ", "that ", "and no ", "1e9", "٣ "),
    ],
)
def test_a_long_text_takes_linear_time(piece: str) -> None:
    gold = "not 5 mg left aspirin X no B12 7 L of hypokalaemia"
    start = time.process_time()
    _compare((piece * 100_000)[:100_000].strip(), gold)  # not cut
    assert time.process_time() - start < 10  # seconds; a quadratic rule takes minutes


@pytest.mark.parametrize("size", [0, 1000])
def test_only_the_first_characters_are_compared(size: int) -> None:
    one, other = ("word " * size + drug for drug in ("aspirin", "ibuprofen"))
    assert both_ways(one, other) == (None if size else "drug")


def test_a_cut_splits_no_word() -> None:
    one, other = ("x" * (MAX_CHARACTERS - 4) + number for number in (" 125", " 1256"))
    assert both_ways(one, other) is None, "the first has 125, the other no number"
    assert _cut(other) == "x" * (MAX_CHARACTERS - 4)


# --- real golds

REAL: dict[PresetName, str] = {
    "medqa-4": "medqa/dev_4options.jsonl",
    "medmcqa": "medmcqa/dev_first2000.jsonl",
    "mmlu-anatomy": "mmlu/anatomy_test.csv",
    "mmlu-clinical-knowledge": "mmlu/clinical_knowledge_test.csv",
    "medical-o1-verifiable-problem": "huatuo/demo_198.json",
}
BRITISH = [("hemo", "haemo"), ("edema", "oedema"), ("emia", "aemia"), ("tumor", "tumour"), ("esophag", "oesophag")]
BRITISH += [("estrogen", "oestrogen"), ("ization", "isation"), ("color", "colour"), ("anesthe", "anaesthe")]


def british(text: str) -> str:
    for american, other in BRITISH:
        text = text.replace(american, other)
    return text


def turned(text: str) -> str:
    """'Carcinoma of the lung' as 'lung Carcinoma'."""
    match = re.fullmatch(r"(\w+(?: \w+)?) of (?:the )?((?:\w+ ){0,2}\w+)\.?", text)
    return f"{match[2]} {match[1]}" if match else text


REWORDINGS: dict[str, Callable[[str], str]] = {
    "capitals": str.upper,
    "lower case": str.lower,
    "spaces": lambda text: f" {text} ".replace(" ", "  "),
    "no punctuation": lambda text: re.sub(r"(?<!\d)[,;:.()!?\"]|[,;:.()!?\"](?!\d)", "", text),
    "no hyphens": lambda text: re.sub(r"(?<=[A-Za-z])-(?=[A-Za-z])", " ", text),
    "the answer is": "The answer is {}.".format,
    "the right answer": "The right answer is {}".format,
    "most likely diagnosis": "{} is the most likely diagnosis".format,
    "British": british,
    "order": turned,
    "explanation": "{}, because this fits the findings best".format,
    "other options": "{}, since the other options do not explain the symptoms.".format,
    "more": "{}, which is not seen in other diseases, and is more common in women over 40".format,
    "nothing else": "{}. No other option fits.".format,
}


@pytest.fixture(scope="module")
def golds(shared_data: Path) -> list[str]:
    """Every fourth distinct gold text of the real sets."""
    texts = [
        example.gold_text
        for name, path in REAL.items()
        for example in PresetSource(name=name, path=str(shared_data / path)).load(0)
    ]
    return list(dict.fromkeys(texts))[::4]


def test_reworded_golds_contradict_nothing(golds: list[str]) -> None:
    alarms = [
        (name, gold)
        for name, reword in REWORDINGS.items()
        for gold in golds
        if find_contradiction(reword(gold.rstrip(".")), gold)
    ]
    assert len(alarms) <= 0.0005 * len(REWORDINGS) * len(golds), alarms  # all 3,635 golds: 2 of 50,890


def test_perturbed_golds_contradict_the_gold(golds: list[str]) -> None:
    perturbed = [(form.format(x=gold.rstrip(".")), gold) for form in DENYING[::6] for gold in golds]
    perturbed += [(re.sub(r"\d+", lambda n: str(int(n[0]) + 1), gold, count=1), gold) for gold in golds]
    for one, other in (("left", "right"), ("upper", "lower"), ("anterior", "posterior"), ("increased", "decreased")):
        perturbed += [(gold.replace(one, other), gold) for gold in golds]
        perturbed += [(gold.replace(other, one), gold) for gold in golds]
    perturbed = [(text, gold) for text, gold in perturbed if text != gold]
    missed = [pair for pair in perturbed if not find_contradiction(*pair)]
    assert len(missed) <= 0.01 * len(perturbed), missed


def both_ways(one: str, other: str) -> Family | None:
    """What is found, whichever text comes first."""
    found = find_contradiction(one, other)
    assert find_contradiction(other, one) == found
    return found
