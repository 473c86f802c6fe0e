import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.data.clinical import generate
from medgrpo.data.encoding import find_damage
from medgrpo.data.language import find_foreign

DAMAGED = [
    ("The cafÃ© diet", "mojibake: fÃ©"),
    ("temperature 38 Â°C", "mojibake: Â°"),
    ("the patientâ€™s wife", "mojibake"),
    ("Ménière became MÃ©niÃ¨re", "mojibake: Ã©"),
    ("10 Âµg of fentanyl", "mojibake: Âµ"),
    ("Sj\ufffdgren syndrome", "replacement character: 'Sj\ufffdgren synd'"),
    ("a bell \x07 rings", "control character: '\\x07'"),
    ("a dash \x96 of Windows", "control character: '\\x96'"),
    ("salt &amp; water", "HTML entity: &amp;"),
    ("p &lt; 0.05", "HTML entity: &lt;"),
    ("it&#39;s", "HTML entity: &#39;"),
    ("half \ud83d of it", "half a surrogate pair"),
]
INTACT = [
    "",
    "plain\ttext\r\nwith lines",
    "38 °C, 10 µg ± 2, ≥ 5 × 10⁹/L, β₂-agonist, α‑synuclein, PaCO₂ → 40",
    "Ménière, Sjögren, Guillain–Barré, Löffler, Ångström, Sørensen",
    "“Quoted” – it’s a dash — and … dots",
    "患者，男，45岁。“胸痛”2小时？",
    "Какой препарат выбора при гипертонии?",
    "Na⁺/K⁺-ATPase & H₂O; AT&T; R&D;",
    "¿Cuál es el tratamiento de elección de la neumonía?",
    "Ξενοδοχείο: ἀρτηρία",
    "no\xa0break 5\u2009mg",
    "FÊTE À LÂGE ÉLEVÉ",
]

FOREIGN = [
    ("Welche Aussage zur Behandlung der arteriellen Hypertonie trifft zu?", "de"),
    ("Ein 45-jähriger Mann kommt mit Brustschmerzen in die Notaufnahme. Was ist die Diagnose?", "de"),
    ("¿Cuál es el tratamiento de elección de la neumonía adquirida en la comunidad?", "es"),
    ("Quel est le traitement de première intention de l'asthme chez l'enfant ?", "fr"),
    ("高血压患者首选的药物是什么?", "zh"),
    ("患者男性,45岁,胸痛2小时。最可能的诊断是什么?", "zh"),
    ("Qual è il farmaco di prima scelta per il diabete di tipo 2?", "it"),
    ("Какой препарат выбора при гипертонии у пожилых людей?", "ru"),
    ("Wat is de eerste keus van behandeling bij een kind met astma?", "nl"),
]
ENGLISH = [
    "Which of the following is the most likely diagnosis?",
    "TREATMENT OF CHOICE IN A PREGNANT PATIENT WITH MALARIA IS:",
    "Foramen ovale, foramen spinosum, foramen rotundum, foramen magnum",
    "Musculus sternocleidomastoideus et nervus accessorius, arteria carotis interna, vena jugularis",
    "Amoxicillin clavulanate, ceftriaxone, ciprofloxacin, doxycycline, rifampicin, isoniazid",
    "MELD = 3.78 × ln(bilirubin) + 11.2 × ln(INR) + 9.57 × ln(creatinine) + 6.43",
    "Drug causing gingival hyperplasia",
    "Staphylococcus aureus, Streptococcus pyogenes, Klebsiella pneumoniae, Pseudomonas aeruginosa",
    "Diagnose:",
    "Lupus erythematosus: anti-dsDNA, anti-Sm, C3, C4, ANA",
]


@pytest.mark.parametrize(("text", "found"), DAMAGED)
def test_damage_is_found(text: str, found: str) -> None:
    assert find_damage(text).startswith(found)


@pytest.mark.parametrize("text", INTACT)
def test_intact_texts(text: str) -> None:
    assert find_damage(text) == ""


def test_every_kind_of_damage_is_named_once() -> None:
    assert find_damage("cafÃ© cafÃ© &amp; &lt; \x07") == "mojibake: fÃ©; control character: '\\x07'; HTML entity: &amp;"


@given(st.text("äöüéèàçñåøßÄÖÜÉ", min_size=2, max_size=8).filter(lambda word: len(set(word)) > 1))
def test_mojibake_of_accents_is_found(letters: str) -> None:
    found = find_damage("a word " + letters.encode().decode("latin-1"))
    assert "mojibake" in found or "control character" in found


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    find_damage(text)
    find_foreign(text, "en")


@pytest.mark.parametrize(("text", "language"), FOREIGN)
def test_foreign_questions(text: str, language: str) -> None:
    assert find_foreign(text, "en") == language
    assert find_foreign(text, language) == ""


@pytest.mark.parametrize("text", ENGLISH)
def test_english_medicine_is_english(text: str) -> None:
    assert find_foreign(text, "en") == ""


def test_english_is_foreign_elsewhere() -> None:
    assert find_foreign("Which of the following is the most likely diagnosis in this woman?", "de") == "en"
    assert find_foreign("Which of the following is the most likely diagnosis in this woman?", "en-GB") == ""


def test_too_short_to_tell() -> None:
    assert find_foreign("Was ist das?", "en") == ""
    assert find_foreign("高血压", "en") == ""


def test_builtin_questions_are_intact_english() -> None:
    for example in generate(2000, 1, ()):
        text = f"{example.question}\n{example.reasoning}"
        assert (find_damage(text), find_foreign(example.question, "en"), find_foreign(example.reasoning, "en")) == (
            "",
            "",
            "",
        )


def questions(folder: Path) -> dict[str, list[str]]:
    """Every question (of huatuo: every text) of the real sets."""
    found = {
        name: [json.loads(line)["question"] for line in (folder / name).read_text().splitlines()]
        for name in ("medqa/dev_4options.jsonl", "medmcqa/dev_first2000.jsonl")
    }
    pubmed = json.loads((folder / "pubmedqa/pqal_train500.json").read_text())
    found["pubmedqa/pqal_train500.json"] = [row["QUESTION"] for row in pubmed.values()]
    for name in ("mmlu/anatomy_test.csv", "mmlu/clinical_knowledge_test.csv"):
        with (folder / name).open(newline="") as lines:
            found[name] = [row[0] for row in csv.reader(lines)]
    with (folder / "medcalc/one_shot_55.csv").open(newline="") as lines:
        found["medcalc/one_shot_55.csv"] = [f"{row['Patient Note']} {row['Question']}" for row in csv.DictReader(lines)]
    huatuo = json.loads((folder / "huatuo/demo_198.json").read_text())
    found["huatuo/demo_198.json"] = [text for row in huatuo for text in row.values() if isinstance(text, str)]
    return found


def test_real_questions(shared_data: Path) -> None:
    """One of Huatuo's texts is really Chinese; no file is damaged."""
    real = questions(shared_data)
    assert sum(map(len, real.values())) > 5000
    languages = {
        name: Counter(find_foreign(text, "en") for text in texts) - Counter({"": 9999}) for name, texts in real.items()
    }
    assert {name: dict(count) for name, count in languages.items() if count} == {"huatuo/demo_198.json": {"zh": 1}}
    assert [find_damage(text) for texts in real.values() for text in texts if find_damage(text)] == []
