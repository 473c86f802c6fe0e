"""Planted defects: one file with one defect each; what prepare and validate find is exactly what was planted.

A finding is a check's name with the row's id, or `refused` with each place that the refusal's message names. Nothing else
may be found: neither another check nor another row. `HARMLESS` are files that only look odd, and in which nothing may be.
"""

import csv
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet
import pytest

from medgrpo.config import Config
from medgrpo.data.checks import CHECKS
from medgrpo.data.patient_data import mask
from medgrpo.data.prepare import prepare
from medgrpo.data.store import read_manifest, read_measured, write_rows
from medgrpo.data.validate import read_report, report_folder, validate
from medgrpo.errors import DataError, ValidationFailed
from medgrpo.fingerprint import file_digest
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef

Row = dict[str, Any]
Rows = list[Row]
Finding = tuple[str, str]
Plant = Callable[[Rows], None]
Write = Callable[[Path, Rows], None]

QUESTIONS = """
cardiology | B | Which valve lies between the left atrium and the left ventricle of the heart? | Tricuspid valve | Mitral valve | Aortic valve | Pulmonary valve
cardiology | C | Which electrolyte disturbance is known for tall and peaked T waves in the electrocardiogram? | Hypocalcaemia | Hyponatraemia | Hyperkalaemia | Hypomagnesaemia
cardiology | A | A 62-year-old man has crushing chest pain, and the ST segments are raised in leads II, III and aVF. Which artery is most likely occluded? | Right coronary artery | Left anterior descending artery | Circumflex artery | Left main stem
cardiology | D | Which drug slows conduction through the atrioventricular node by blocking calcium channels? | Lidocaine | Furosemide | Lisinopril | Verapamil
cardiology | B | What is the most common congenital defect of the heart that is found in newborns? | Transposition of the great arteries | Ventricular septal defect | Tetralogy of Fallot | Coarctation of the aorta
cardiology | C | Which marker in the blood is most specific for damage of the heart muscle? | Myoglobin | Lactate dehydrogenase | Troponin I | Aspartate aminotransferase
cardiology | A | Which finding on auscultation is typical of stenosis of the aortic valve in the elderly? | Systolic murmur that radiates to the carotids | Diastolic rumble at the apex | Continuous machinery murmur | Fixed split of the second sound
cardiology | D | Which of these drugs lowers cholesterol because it inhibits the enzyme HMG-CoA reductase? | Ezetimibe | Fenofibrate | Niacin | Simvastatin
neurology | A | The loss of neurons in the substantia nigra is the hallmark of which disorder? | Parkinson's disease | Huntington's chorea | Myasthenia gravis | Multiple sclerosis
neurology | B | Which cranial nerve carries the sense of taste from the front of the tongue? | Trigeminal nerve | Facial nerve | Vagus nerve | Hypoglossal nerve
neurology | C | What is the treatment of choice when a patient has been in status epilepticus for five minutes? | Oral carbamazepine | Intravenous mannitol | Intravenous lorazepam | Oral valproate
neurology | D | Which triad of symptoms is what Ménière described in his patients with disease of the inner ear? | Fever, rash and arthritis | Ataxia, confusion and ophthalmoplegia | Miosis, ptosis and anhidrosis | Vertigo, tinnitus and hearing loss
neurology | A | Antibodies against which receptor are found in most people with myasthenia gravis? | Nicotinic acetylcholine receptor | Dopamine receptor | Glycine receptor | Muscarinic receptor of the heart
neurology | B | Which vitamin should be given before glucose to a malnourished patient with alcohol dependence? | Vitamin C | Thiamine | Folate | Vitamin K
neurology | C | Which artery is torn most often when an epidural haematoma follows a blow to the temple? | Basilar artery | Anterior cerebral artery | Middle meningeal artery | Vertebral artery
neurology | D | Which of the following is the first-line treatment for the acute attack of a cluster headache? | Propranolol | Codeine | Amitriptyline | Inhaled oxygen
endocrinology | C | Which hormone is made by the beta cells of the pancreatic islets? | Glucagon | Somatostatin | Insulin | Gastrin
endocrinology | D | What is the most common cause of primary adrenal insufficiency in Europe today? | Tuberculosis | Haemorrhage | Metastases | Autoimmune adrenalitis
endocrinology | A | Which laboratory value best reflects the mean glucose of the past three months? | Glycated haemoglobin | Fructosamine | Fasting glucose | Urinary ketones
endocrinology | B | Exophthalmos, a goitre and a suppressed thyrotropin are the signs of which disease? | Hashimoto thyroiditis | Graves disease | Subacute thyroiditis | Toxic adenoma
endocrinology | C | A lack of which hormone leads to polyuria with a urine that is very dilute? | Aldosterone | Cortisol | Vasopressin | Renin
endocrinology | D | Which drug is the usual first choice for an adult who has type 2 diabetes and normal kidneys? | Acarbose | Glibenclamide | Pioglitazone | Metformin
endocrinology | A | Which tumour of the adrenal medulla causes attacks of hypertension, headache and sweating? | Phaeochromocytoma | Neuroblastoma | Aldosteronoma | Myelolipoma
endocrinology | B | Which ion rises in the blood when a parathyroid adenoma secretes its hormone without restraint? | Potassium | Calcium | Phosphate | Magnesium
infection | D | Which organism is the most frequent cause of pneumonia that is acquired in the community? | Klebsiella pneumoniae | Legionella pneumophila | Pseudomonas aeruginosa | Streptococcus pneumoniae
infection | A | Which antibiotic should be used for syphilis in a person without any allergy? | Benzathine penicillin | Gentamicin | Clindamycin | Metronidazole
infection | B | Which parasite is transmitted by the bite of the female Anopheles mosquito? | Leishmania donovani | Plasmodium falciparum | Trypanosoma cruzi | Wuchereria bancrofti
infection | C | The cough of a child comes in fits that end with a whoop. Which vaccine would have prevented it? | Measles vaccine | Rotavirus vaccine | Acellular pertussis vaccine | Varicella vaccine
infection | D | Which virus is associated with Kaposi sarcoma in people who live with an immune deficiency? | Cytomegalovirus | Hepatitis C virus | Parvovirus B19 | Human herpesvirus 8
infection | A | What is the recommended treatment of oral thrush in an otherwise healthy infant? | Nystatin suspension | Aciclovir cream | Amoxicillin syrup | Mebendazole tablets
infection | B | Which test is used to look for latent tuberculosis in a person who was vaccinated with BCG? | Sputum culture | Interferon gamma release assay | Blood smear | Serum galactomannan
infection | C | Watery stools like rice water after a journey are most typical of an infection by which bacterium? | Shigella sonnei | Salmonella typhi | Vibrio cholerae | Campylobacter jejuni
kidney | B | Which part of the nephron reabsorbs most of the filtered sodium? | Collecting duct | Proximal tubule | Thin descending limb | Macula densa
kidney | C | Casts of red blood cells in the urine are a sign of disease in which structure? | Bladder | Prostate | Glomerulus | Renal pelvis
kidney | D | Which diuretic acts in the collecting duct and does not waste potassium? | Furosemide | Hydrochlorothiazide | Acetazolamide | Spironolactone
kidney | A | What is the most common composition of the stones that are passed by adults with renal colic? | Calcium oxalate | Uric acid | Cystine | Struvite
kidney | B | Heavy proteinuria, a low albumin and oedema of the face in a child are best explained by what? | Acute pyelonephritis | Minimal change disease | Polycystic kidneys | Renal artery stenosis
kidney | C | Which substance is cleared from the blood at a rate that is the standard for glomerular filtration? | Urea | Glucose | Inulin | Albumin
kidney | D | A 71-year-old woman who takes ibuprofen every day is admitted with nausea, and her creatinine has doubled within a week while her urine contains eosinophils. What is the most likely explanation of her renal failure? | Obstruction by a stone | Diabetic nephropathy | Thrombosis of a renal vein | Acute interstitial nephritis
kidney | A | Which enzyme is secreted by the juxtaglomerular cells when the renal perfusion falls? | Renin | Lipase | Pepsin | Carbonic anhydrase
"""
BENCHMARK = """
exam | B | A 34-year-old gardener pricked his finger on a rose thorn, and some weeks later a chain of painless nodules has spread along the lymphatics of his forearm. Which drug should he be given? | Fluconazole lotion | Itraconazole | Doxycycline | Albendazole
exam | C | Which of the following tendons passes through the groove on the inferior surface of the cuboid bone? | Tibialis posterior | Flexor hallucis longus | Fibularis longus | Plantaris
exam | A | During a thyroidectomy the surgeon ligates the superior thyroid artery carelessly. Which nerve is most at risk, and changes the pitch of the voice? | External laryngeal nerve | Recurrent laryngeal nerve | Glossopharyngeal nerve | Accessory nerve
exam | D | Which amino acid accumulates in the plasma of infants whose hydroxylase in the liver is missing? | Tyrosine | Histidine | Leucine | Phenylalanine
"""
COUNT = 40
SECRETS = {"name": "Rosalind Akintola", "phone": "(415) 555-0137", "e-mail": "r.akintola@stlukes.example"}
COLUMNS = {"id": "id", "question": "question", "gold": "gold", "topic": "topic", "options": ["a", "b", "c", "d"]}
SET = "(the set)"
GERMAN = "Welcher der folgenden Befunde spricht bei einem Kind mit hohem Fieber am ehesten für eine Meningitis?"
LONG = "The notes of the ward say that she slept well and had her breakfast before the round. "


def _parse(table: str, prefix: str) -> Rows:
    lines = [line.split(" | ") for line in table.strip().splitlines()]
    return [
        {"id": f"{prefix}{n}", "question": question, **dict(zip("abcd", options, strict=True))}
        | {"gold": gold, "topic": topic}
        for n, (topic, gold, question, *options) in enumerate(lines, start=1)
    ]


def _clean() -> Rows:
    return _parse(QUESTIONS, "q")


# What writes the file.


def _jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _json(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=0), encoding="utf-8")


def _csv(path: Path, rows: Rows, **dialect: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), **dialect)
        writer.writeheader()
        writer.writerows(rows)


def _parquet(path: Path, rows: Rows) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Write] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}


def _line(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Changes one line of the written file, counted from 1."""

    def edit(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        lines[number - 1] = change(lines[number - 1])
        return b"".join(lines)

    return edit


def _recode(encoding: str) -> Callable[[bytes], bytes]:
    return lambda content: content.decode().encode(encoding)


def _cut(line: bytes) -> bytes:
    return line[:60] + b"\n"


# What plants the defect. Rows are named by their number: 7 is q7, on line 7 of JSONL and on line 8 of CSV.


def _set(number: int, **values: Any) -> Plant:
    """Gives one row other values; columns that no other row has are empty there."""

    def plant(rows: Rows) -> None:
        for row in rows:
            row |= {column: "" for column in values if column not in row}
        rows[number - 1] |= values

    return plant


def _say(number: int, text: str, column: str = "question") -> Plant:
    """Puts a sentence before what a row's column has."""

    def plant(rows: Rows) -> None:
        for row in rows:
            row.setdefault(column, "")
        rows[number - 1][column] = f"{text} {rows[number - 1][column]}".strip()

    return plant


def _swap(number: int, old: str, new: str, column: str = "question") -> Plant:
    def plant(rows: Rows) -> None:
        assert old in rows[number - 1][column]
        rows[number - 1][column] = rows[number - 1][column].replace(old, new)

    return plant


def _again(number: int, **values: Any) -> Plant:
    """Adds q41, a copy of a row with other values."""
    return lambda rows: rows.append(rows[number - 1] | {"id": f"q{len(rows) + 1}"} | values)


def _exam(number: int, **values: Any) -> Plant:
    """Adds q41, a copy of a benchmark's row with other values."""
    return lambda rows: rows.append(
        _parse(BENCHMARK, "b")[number - 1] | {"id": f"q{len(rows) + 1}", "topic": "kidney"} | values
    )


def _each(change: Callable[[Row], Row]) -> Plant:
    """Changes every row."""

    def plant(rows: Rows) -> None:
        rows[:] = [row | change(row) for row in rows]

    return plant


def _both(*plants: Plant) -> Plant:
    def plant(rows: Rows) -> None:
        for each in plants:
            each(rows)

    return plant


def _drop_column(column: str) -> Plant:
    def plant(rows: Rows) -> None:
        for row in rows:
            del row[column]

    return plant


def _nothing(rows: Rows) -> None:
    """The defect is in the file alone."""


def _numbered(first: int) -> Plant:
    """Golds as option numbers."""
    return _each(lambda row: {"gold": "ABCD".index(row["gold"]) + first})


def _gold_text(row: Row) -> Row:
    return {"gold_text": row[row["gold"].lower()]}


def _numeric(number: int, **values: Any) -> Plant:
    """One row of kind numeric among the choices."""
    question = "What is the mean arterial pressure in mmHg when the blood pressure is 120/60 mmHg?"
    row = {"question": question, "kind": "numeric", "gold": "80", **dict.fromkeys("abcd", "")}
    return _set(number, **row | values)


def _text(number: int, **values: Any) -> Plant:
    """One row of kind text among the choices."""
    question = "Which drug reverses the effect of unfractionated heparin? Name it."
    return _set(number, question=question, kind="text", **dict.fromkeys("abcd", ""), **values)


class Defect(NamedTuple):
    """A file with a defect, and what must be found in it."""

    name: str
    plant: Plant
    found: set[Finding]
    says: str = ""
    """What the refusal, the report or the page must say."""
    file: str = ".jsonl"
    edit: Callable[[bytes], bytes] | None = None
    """Changes the bytes of the written file."""
    columns: Mapping[str, Any] = {}
    """Further columns of the map."""
    source: Mapping[str, Any] = {}
    data: Mapping[str, Any] = {}
    benchmark: bool = False
    secrets: tuple[str, ...] = ()
    """What may be shown nowhere."""


def _refused(*places: str) -> set[Finding]:
    return {("refused", place) for place in places}


def _on(check: str, *ids: str) -> set[Finding]:
    return {(check, id_) for id_ in ids}


MANY = {"columns": {"kind": "kind", "lower": "lower", "upper": "upper", "tolerance": "tolerance"}}
KIND = {"columns": {"kind": "kind"}}
NAME, PHONE, EMAIL = SECRETS.values()

FILES = [
    Defect("latin-1 jsonl", _nothing, _refused("line 12"), "0xe9, is not utf-8", edit=_recode("latin-1")),
    Defect("latin-1 csv", _nothing, _refused("line 13"), "0xe9, is not utf-8", ".csv", _recode("latin-1")),
    Defect("latin-1 json", _nothing, _refused("line 114"), "0xe9, is not utf-8", ".json", _recode("latin-1")),
    Defect("utf-16 csv", _nothing, _refused("line 1"), "not utf-8", ".csv", _recode("utf-16")),
    Defect("utf-16 jsonl", _nothing, _refused("line 1"), "not utf-8", edit=_recode("utf-16")),
    Defect(
        "one line in another encoding",
        _swap(7, "auscultation", "ausc\u00fcltation"),
        _refused("line 7"),
        "0xfc, is not utf-8",
        edit=_line(7, _recode("latin-1")),
    ),
    Defect("line cut off", _nothing, _refused("line 7"), "no JSON", edit=_line(7, _cut)),
    Defect("last line cut off", _nothing, _refused("line 40"), "no JSON", edit=_line(40, lambda line: line[:60])),
    Defect("line is a list", _nothing, _refused("line 7"), "not an object", edit=_line(7, lambda _: b'["B", 2]\n')),
    Defect("line is a number", _nothing, _refused("line 7"), "not an object", edit=_line(7, lambda _: b"17\n")),
    Defect("json row is a text", lambda rows: rows.__setitem__(6, "q"), _refused("row 7"), "not an object", ".json"),
    Defect(
        "json cut off",
        _nothing,
        _refused("line 114"),
        "not readable as json",
        ".json",
        lambda b: b[: b.index(b"M\xc3")],
    ),
    Defect("parquet cut off", _nothing, set(), "not readable as parquet", ".parquet", lambda b: b[:-40]),
    Defect("empty file", _nothing, set(), "no rows", edit=lambda _: b""),
    Defect(
        "quote not closed",
        _nothing,
        _refused("row 40", "line 41"),
        "never closed",
        ".csv",
        _line(41, lambda line: line.replace(b"Which", b'"Which')),
    ),
    Defect(
        "quote not closed before quoted fields",
        _set(30, topic='the "fungal", chapter'),
        _refused("row 7", "line 8"),
        "quote",
        ".csv",
        _line(8, lambda line: line.replace(b"Which", b'"Which')),
    ),
    Defect(
        "a field too few",
        _nothing,
        _refused("row 7", "line 8"),
        "6 fields, but the header has 8",
        ".csv",
        _line(8, lambda line: line.rsplit(b",", 2)[0] + b"\r\n"),
    ),
    Defect(
        "a field too many",
        _nothing,
        _refused("row 7", "line 8"),
        "9 fields, but the header has 8",
        ".csv",
        _line(8, lambda line: line.replace(b"Which finding", b"Which, finding")),
    ),
    Defect(
        "column twice",
        _nothing,
        set(),
        "'gold' more than once",
        ".csv",
        _line(1, lambda h: h.replace(b"topic", b"gold")),
    ),
    Defect("column missing", _drop_column("gold"), set(), "no column 'gold'", ".parquet"),
    Defect("semicolons", _nothing, set(), "no column", ".csv", lambda content: content.replace(b",", b";")),
    Defect(
        "field of 10 MB, csv", _set(7, question="x" * 10_000_001), _refused("row 7", "line 8"), "field larger", ".csv"
    ),
    Defect(
        "field of 10 MB, jsonl",
        _set(7, question=(LONG * 120_000)[:10_000_000]),
        _on("question_length", "q7"),
        "10000000",
    ),
    Defect("field of 10 MB, parquet", _set(7, b="x" * 10_000_000), _on("prompt_fits", "q7"), "", ".parquet"),
]
TEXTS = [
    Defect("replacement character", _swap(12, "é", "\ufffd"), _on("text_intact", "q12"), "replacement character"),
    Defect("mojibake", _swap(12, "Ménière", "MÃ©niÃ¨re"), _on("text_intact", "q12"), "mojibake"),
    Defect("mojibake in an option", _set(5, c="Tetralogy of Fallotâ€™s"), _on("text_intact", "q5"), "mojibake"),
    Defect("HTML entity", _swap(12, "é", "&#233;"), _on("text_intact", "q12"), "HTML entity"),
    Defect(
        "half a surrogate pair",
        _nothing,
        _refused("line 7", "q7"),
        "surrogate",
        edit=_line(7, lambda line: line.replace(b"Which", b"\\ud83d Which")),
    ),
    Defect(
        "control character", _swap(7, "the elderly", "the\x92 elderly"), _on("text_intact", "q7"), "control character"
    ),
    Defect("German question", _set(7, question=GERMAN), _on("language", "q7"), "de"),
    Defect("empty question", _set(7, question=""), _on("question_length", "q7"), "0"),
    Defect("question of white space", _set(7, question=" \u00a0\n "), _on("question_length", "q7"), "0"),
    Defect("prompt too long", _say(7, LONG * 30), _on("prompt_fits", "q7"), "data.max_prompt_tokens"),
    Defect("question is an object", _set(7, question={"text": "Why?"}), _refused("line 7", "q7"), "holds a dict"),
]
GOLDS = [
    Defect("empty gold", _set(7, gold=""), _on("gold_length", "q7") | _on("gold_provable", "q7")),
    Defect(
        "gold is null in parquet",
        _set(7, gold=None),
        _on("gold_length", "q7") | _on("gold_provable", "q7"),
        "",
        ".parquet",
    ),
    Defect("gold is NaN in jsonl", _set(7, gold=float("nan")), _on("gold_length", "q7") | _on("gold_provable", "q7")),
    Defect("letter without an option", _set(7, gold="E"), _on("gold_provable", "q7")),
    Defect("gold is no letter", _set(7, gold="the first one"), _refused("line 7", "q7"), "neither a letter"),
    Defect(
        "number out of range",
        _both(_numbered(0), _set(7, gold=9)),
        _refused("row 7", "q7"),
        "is no number from 0 to 3",
        ".parquet",
    ),
    Defect(
        "number out of range of a stated base",
        _both(_numbered(0), _set(7, gold=4)),
        _refused("line 7", "q7"),
        "is no number from 0 to 3",
        columns={"label_base": 0},
    ),
    Defect(
        "numbers from 0 or 1",
        _each(lambda row: {"gold": "ABCD".index(row["gold"]) % 3 + 1}),
        set(),
        "set data.source.columns.label_base",
    ),
    Defect(
        "numbers from 0 and from 1",
        _both(_numbered(1), _set(7, gold=0)),
        _refused("line 4", "line 7"),
        "numbered from 0 in line 7, and from 1 in line 4",
    ),
    Defect("no golds at all", _each(lambda _: {"gold": -1}), set(), "this split has no golds"),
    Defect(
        "shifted label",
        _both(_each(_gold_text), _set(7, gold="B")),
        _refused("line 7", "q7"),
        "are the labels shifted?",
        columns={"gold_text": "gold_text"},
    ),
    Defect(
        "all labels shifted",
        _both(_each(_gold_text), _each(lambda row: {"gold": "BCDA"["ABCD".index(row["gold"])]})),
        _refused(*(f"row {n}" for n in range(1, 21)), *(f"q{n}" for n in range(1, 21))),
        "and 20 more",
        ".parquet",
        columns={"gold_text": "gold_text"},
    ),
    Defect("labels all A", _each(lambda row: {"gold": "A"}), _on("label_balance", SET), "4"),
    Defect("gold closes its block", _text(7, gold="protamine</answer>"), _on("gold_provable", "q7"), "grammar", **KIND),
    Defect("gold opens a block", _text(7, gold="<answer>protamine"), _on("gold_provable", "q7"), "grammar", **KIND),
    Defect(
        "gold too long for a completion",
        _text(7, gold="protamine sulphate, given slowly into a vein " * 12),
        _on("gold_fits_completion", "q7"),
        **KIND,
    ),
]
KINDS = [
    Defect("unknown kind", _set(7, kind="essay"), _refused("line 7", "q7"), "'essay' is none of", **KIND),
    Defect(
        "numeric row with a letter",
        _set(7, kind="numeric"),
        _on("gold_provable", "q7"),
        "the gold is no number",
        **KIND,
    ),
    Defect(
        "numeric gold in words", _numeric(7, gold="eighty"), _on("gold_provable", "q7"), "the gold is no number", **KIND
    ),
    Defect(
        "numeric gold with its unit",
        _numeric(7, gold="80 mmHg"),
        _on("gold_provable", "q7"),
        "the gold is no number",
        **KIND,
    ),
    Defect("numeric gold nan", _numeric(7, gold="nan"), _on("gold_provable", "q7"), "'nan'", **KIND),
    Defect("numeric gold inf", _numeric(7, gold="inf"), _on("gold_provable", "q7"), "'inf'", **KIND),
    Defect(
        "gold outside its limits",
        _numeric(7, lower=70, upper=75, tolerance=""),
        _on("gold_provable", "q7"),
        "'80'",
        **MANY,
    ),
    Defect(
        "limits reversed",
        _numeric(7, lower=84, upper=76, tolerance=""),
        _refused("line 7", "q7"),
        "above the upper",
        **MANY,
    ),
    Defect(
        "one limit",
        _numeric(7, lower=76, upper="", tolerance=""),
        _refused("line 7", "q7"),
        "only one of the limits",
        **MANY,
    ),
    Defect(
        "limit is no number",
        _numeric(7, lower="low", upper=84, tolerance=""),
        _refused("line 7", "q7"),
        "'low' is no number",
        **MANY,
    ),
    Defect(
        "tolerance below zero",
        _numeric(7, lower="", upper="", tolerance=-1),
        _refused("line 7", "q7"),
        "tolerance",
        **MANY,
    ),
    Defect(
        "date that no calendar has", _numeric(7, kind="date", gold="02/30/2024"), _on("gold_provable", "q7"), **KIND
    ),
    Defect(
        "range with one end",
        _numeric(7, kind="range", gold="80"),
        _on("gold_provable", "q7"),
        "no range such as 3.5-5.0",
        **KIND,
    ),
    Defect(
        "choice row without options",
        _set(7, **dict.fromkeys("abcd", "")),
        _on("option_count", "q7") | _on("gold_provable", "q7"),
    ),
]
OPTIONS = [
    Defect(
        "option text twice",
        _swap(7, "Diastolic rumble at the apex", "Continuous machinery murmur", "b"),
        _on("options_distinct", "q7"),
        "B and C",
    ),
    Defect(
        "options differ in case", _set(7, b="CONTINUOUS machinery murmur"), _on("options_distinct", "q7"), "B and C"
    ),
    Defect(
        "options differ in spaces",
        _set(7, b="Continuous  machinery\u00a0murmur "),
        _on("options_distinct", "q7"),
        "B and C",
    ),
    Defect("gap in the options", _set(7, b=""), _refused("row 7", "q7"), "option B is empty", ".csv"),
    Defect("one option", _set(7, b="", c="", d=""), _on("option_count", "q7"), "1"),
]
REPEATS = [
    Defect("id twice", _set(7, id="q6"), _on("unique_ids", "q6"), "q6"),
    Defect("exact duplicate", _again(7), _on("no_exact_duplicate", "q41"), "'q7'"),
    Defect(
        "duplicate in capitals",
        _again(7, question=_clean()[6]["question"].upper()),
        _on("no_exact_duplicate", "q41"),
        "'q7'",
    ),
    Defect(
        "duplicate with its options in another order",
        _again(7, a="Continuous machinery murmur", c=_clean()[6]["a"], gold="C"),
        _on("no_exact_duplicate", "q41"),
        "'q7'",
    ),
    Defect(
        "near duplicate",
        _both(_again(39), _swap(41, "What is the most", "What would be the most")),
        _on("no_near_duplicate", "q41"),
        "'q39'",
    ),
    Defect("contradiction", _again(7, gold="B"), _on("no_contradiction", "q7", "q41"), "whose gold is"),
    Defect(
        "duplicate with another thousands separator",
        _both(
            _set(
                7,
                question="Which finding is typical of a platelet count of 15,000 per microlitre in the elderly?",
                topic="pair",
            ),
            _again(7, question="Which finding is typical of a platelet count of 15 000 per microlitre in the elderly?"),
        ),
        _on("no_exact_duplicate", "q41"),
        data={"test_rows": 20},
    ),
]
EXAM = _parse(BENCHMARK, "b")
LEAKS = [
    Defect("benchmark's row", _exam(1), _on("no_benchmark_overlap", "q41"), "'b1'", benchmark=True),
    Defect(
        "benchmark's row, other marks and case",
        _exam(2, question=EXAM[1]["question"].upper().rstrip("?") + " ..."),
        _on("no_benchmark_overlap", "q41"),
        "'b2'",
        benchmark=True,
    ),
    Defect(
        "benchmark's row in a longer text",
        _exam(1, question=f"{LONG}{EXAM[0]['question']}"),
        _on("no_benchmark_overlap", "q41"),
        "8-grams",
        benchmark=True,
    ),
    Defect(
        "benchmark's row with other options",
        _exam(1, a="Amphotericin lotion", c="Rifampicin", d="Praziquantel"),
        _on("no_benchmark_overlap", "q41"),
        "'b1'",
        benchmark=True,
    ),
    Defect(
        "benchmark's options, question rewritten",
        _exam(
            3,
            question="In thyroidectomy, a superior thyroid artery is tied too near the gland, and the pitch of the voice is lost. Name the injured nerve.",
        ),
        _on("no_benchmark_overlap", "q41"),
        "same options",
        benchmark=True,
    ),
    Defect(
        "benchmark's gold, question rewritten",
        _exam(
            1,
            question="Painless nodules spread along the lymphatics of a gardener's forearm some weeks later, after a rose thorn pricked his finger: which drug?",
            a="Griseofulvin",
            c="Cefalexin",
            d="Ivermectin",
        ),
        _on("no_benchmark_overlap", "q41"),
        "same gold",
        benchmark=True,
    ),
    Defect(
        "rewritten from a benchmark's row",
        _set(7, original=EXAM[0]["question"]),
        _on("no_benchmark_overlap", "q7"),
        "'b1'",
        columns={"original": "original"},
        benchmark=True,
    ),
]
LICENCES = [
    Defect(
        "licence not allowed", _nothing, _on("licence_allowed", SET), "cc-by-nc-4.0", source={"licence": "cc-by-nc-4.0"}
    ),
    Defect("licence missing", _nothing, _on("licence_present", SET), source={"licence": ""}),
]
PATIENT = [
    Defect(
        "name",
        _say(7, f"Mrs. {NAME} was seen on the ward."),
        _on("no_patient_data", "q7"),
        "name: R•••",
        secrets=(NAME, "Akintola"),
    ),
    Defect(
        "name before an age",
        _say(7, f"{NAME}, a 71-year-old woman, is short of breath."),
        _on("no_patient_data", "q7"),
        "name: R•••",
        secrets=(NAME, "Akintola"),
    ),
    Defect(
        "date of birth",
        _say(7, "Date of birth: 03/14/1951."),
        _on("no_patient_data", "q7"),
        "birth date: ••",
        secrets=("03/14/1951", "1951"),
    ),
    Defect(
        "phone",
        _say(7, f"Her daughter can be called at {PHONE}."),
        _on("no_patient_data", "q7"),
        "phone: (•••) •••-••37",
        secrets=(PHONE, "555-0137"),
    ),
    Defect(
        "e-mail in an option",
        _set(7, b=f"Write to {EMAIL} first"),
        _on("no_patient_data", "q7"),
        "e-mail: r•",
        secrets=(EMAIL, "akintola"),
    ),
    Defect(
        "record number",
        _say(7, "MRN: 00482913."),
        _on("no_patient_data", "q7"),
        "record number: ••••••13",
        secrets=("00482913", "4829"),
    ),
    Defect(
        "social security number",
        _say(7, "SSN 219-09-9999."),
        _on("no_patient_data", "q7"),
        "social security number",
        secrets=("219-09-9999", "219-09"),
    ),
    Defect(
        "address",
        _say(7, "She lives at 4127 Juniper Avenue, Springfield, IL 62704."),
        _on("no_patient_data", "q7"),
        "address: ••",
        secrets=("Juniper", "4127", "62704"),
    ),
    Defect(
        "phone in the reasoning",
        _say(7, f"Call {PHONE} for the echo.", "reasoning"),
        _on("no_patient_data", "q7"),
        "phone",
        columns={"reasoning": "reasoning"},
        secrets=(PHONE, "555-0137"),
    ),
    Defect(
        "name in the topic",
        _set(7, topic=f"Patient name: {NAME}"),
        _on("no_patient_data", "q7"),
        "name",
        secrets=(NAME, "Akintola"),
    ),
    Defect(
        "e-mail as id", _set(7, id=EMAIL), _on("no_patient_data", mask(EMAIL)), "e-mail", secrets=(EMAIL, "akintola")
    ),
    Defect(
        "phone beside a replacement character",
        _say(7, f"Her number is {PHONE}\ufffd."),
        _on("no_patient_data", "q7") | _on("text_intact", "q7"),
        "phone",
        secrets=(PHONE, "555-0137"),
    ),
    Defect(
        "phone in a contradiction's golds",
        _both(_set(7, a=f"Call {PHONE} now"), _again(7, gold="B")),
        _on("no_contradiction", "q7", "q41"),
        "whose gold is",
        secrets=(PHONE, "555-0137"),
    ),
    Defect(
        "phone in a gold that is refused",
        _set(7, gold=f"Call {PHONE}"),
        _refused("line 7", "q7"),
        "neither a letter",
        secrets=(PHONE, "555-0137"),
    ),
    Defect(
        "phone in a duplicate",
        _both(_say(7, f"Her daughter can be called at {PHONE}."), _again(7)),
        _on("no_patient_data", "q7") | _on("no_exact_duplicate", "q41"),
        "phone",
        secrets=(PHONE, "555-0137"),
    ),
]
DEFECTS = [*FILES, *TEXTS, *GOLDS, *KINDS, *OPTIONS, *REPEATS, *LEAKS, *LICENCES, *PATIENT]

HARMLESS = [
    *(Defect(f"clean {ending[1:]}", _nothing, set(), file=ending) for ending in WRITERS),
    Defect("beside a benchmark", _nothing, set(), benchmark=True),
    Defect("byte order mark, jsonl", _nothing, set(), edit=_recode("utf-8-sig")),
    Defect("byte order mark, csv", _nothing, set(), file=".csv", edit=_recode("utf-8-sig")),
    Defect("Windows line ends", _nothing, set(), edit=lambda content: content.replace(b"\n", b"\r\n")),
    Defect("blank lines", _nothing, set(), edit=lambda content: content.replace(b"\n", b"\n\n")),
    Defect("numeric gold with a thousands separator", _numeric(7, gold="1,080"), set(), **KIND),
    Defect("golds in small letters", _each(lambda row: {"gold": row["gold"].lower()}), set()),
    Defect("golds as texts", _each(lambda row: {"gold": row[row["gold"].lower()]}), set()),
    Defect("golds from 1, in parquet", _numbered(1), set(), file=".parquet"),
    Defect("golds from 0, in csv", _numbered(0), set(), file=".csv"),
    Defect("one option fewer", _set(7, d=""), set()),
    Defect("a number among the choices", _numeric(7, lower="", upper="", tolerance=2), set(), **MANY),
    Defect(
        "names of others",
        _say(7, "The Apgar score, Down syndrome, Virchow's triad and John Snow's map are known."),
        set(),
    ),
    Defect("same text, another number", _both(_again(39), _swap(41, "71", "17")), set()),
    Defect(
        "same text, another sign",
        _both(
            _set(7, question="Which finding is typical of a base excess of 12 mmol/l in the elderly?", topic="pair"),
            _again(7, question="Which finding is typical of a base excess of -12 mmol/l in the elderly?"),
        ),
        set(),
        data={"test_rows": 20},
    ),
    Defect(
        "same options, another question",
        _again(9, question="Which of these disorders is treated with pyridostigmine?", gold="C"),
        set(),
    ),
    Defect(
        "benchmark's options, another question",
        _exam(3, question="Which of these nerves makes the trapezius contract when it is stimulated?", gold="D"),
        set(),
        benchmark=True,
    ),
]


def _config(defect: Defect, path: Path) -> Config:
    def source(file: Path, **values: Any) -> dict[str, Any]:
        return {
            "kind": "file",
            "path": str(file),
            "example_kind": "choice",
            "columns": COLUMNS,
            "licence": "mit",
        } | values

    data: dict[str, Any] = {"validation_rows": 4, "test_rows": 6, "max_prompt_tokens": 700} | dict(defect.data)
    data["source"] = source(path, columns=COLUMNS | dict(defect.columns), **defect.source)
    if defect.benchmark:
        benchmark = path.with_name("benchmark.jsonl")
        _jsonl(benchmark, EXAM)
        data["benchmarks"] = [source(benchmark)]
    return Config.model_validate({"name": "planted", "data": data, "policy": {"base": {"kind": "tiny"}}})


def _plant(defect: Defect, folder: Path) -> Path:
    """Writes the file with its defect."""
    rows, path = _clean(), folder / f"questions{defect.file}"
    defect.plant(rows)
    WRITERS[defect.file](path, rows)
    if defect.edit:
        path.write_bytes(defect.edit(path.read_bytes()))
    return path


class Outcome(NamedTuple):
    """What the stages found, and every text that they showed."""

    found: set[Finding]
    shown: str


def _run(config: Config, path: Path, base: BaseRef, settings: Settings) -> Outcome:
    try:
        dataset = prepare(config, base, settings)
    except DataError as error:
        message = str(error)
        assert str(path) in message, "the refusal names the file"
        places = re.findall(r"\b(?:row|line) \d+|(?<=')q\d+(?=')", message.replace(str(path), ""))
        return Outcome(_refused(*places), message)
    return _judge(config, dataset, settings)


def _judge(config: Config, dataset: DatasetRef, settings: Settings) -> Outcome:
    """What validate finds in a prepared set, and whether its message and its report agree."""
    message = ""
    try:
        validate(config, dataset, settings)
    except ValidationFailed as error:
        message = str(error)
    report = read_report(config, dataset, settings)
    assert report is not None
    failed = [result for result in report.results if not result.success]
    for result in failed:
        assert result.bad_count == len(result.bad_rows) > 0, "every failure names its rows"
    critical = {(result.name, row.id) for result in report.critical_failures for row in result.bad_rows}
    named = {
        (name, id_)
        for name, rest in re.findall(r"^  (\w+): .*; not so: (.*)$", message, re.MULTILINE)
        for id_ in re.findall(r"'([^']+)' \(", rest)
    }
    assert named == critical, "the message names every row that stops the run, and no other"
    pages = [file.read_text(encoding="utf-8") for file in report_folder(config, dataset, settings).iterdir()]
    return Outcome({(r.name, row.id) for r in failed for row in r.bad_rows}, "\n".join([message, *pages]))


def _check(defect: Defect, base: BaseRef, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _plant(defect, folder)
    with caplog.at_level(logging.INFO, logger="medgrpo"):
        outcome = _run(_config(defect, path), path, base, Settings(home=folder / "home"))
    shown = re.sub(r"<style>.*?</style>", "", outcome.shown, flags=re.DOTALL)
    assert outcome.found == defect.found, shown[:2000]
    assert defect.says in shown
    for secret in defect.secrets:
        assert secret not in shown
        assert secret not in caplog.text


def test_the_clean_set_passes_whole(base: BaseRef, tmp_path: Path) -> None:
    clean = Defect("clean", _nothing, set())
    path = _plant(clean, tmp_path)
    config, settings = _config(clean, path), Settings(home=tmp_path / "home")
    dataset = prepare(config, base, settings)
    report = validate(config, dataset, settings)
    assert dataset.rows == {"train": COUNT - 10, "validation": 4, "test": 6}
    assert {result.name for result in report.results} == set(CHECKS)
    assert all(result.success for result in report.results)
    assert report.majority_accuracy == 0.25


def test_a_train_row_among_the_test_rows_is_found(base: BaseRef, tmp_path: Path) -> None:
    """What prepare leaves no way to: planted in the prepared set."""
    clean = Defect("clean", _nothing, set())
    config, settings = _config(clean, _plant(clean, tmp_path)), Settings(home=tmp_path / "home")
    dataset = prepare(config, base, settings)
    manifest, leaked = read_manifest(dataset.key, settings), read_measured(dataset, "train", settings)[3]
    assert manifest is not None
    leaked = leaked._replace(example=leaked.example.model_copy(update={"id": "q41"}))
    folder = settings.dataset(dataset.key)
    write_rows(folder / "test.parquet", [*read_measured(dataset, "test", settings), leaked])
    files = manifest.files | {"test.parquet": file_digest(folder / "test.parquet")}
    (folder / "manifest.json").write_text(manifest.model_copy(update={"files": files}).model_dump_json())
    assert _judge(config, dataset, settings).found == _on("no_held_out_leak", "q41")


def test_every_check_has_its_defect() -> None:
    names = [defect.name for defect in [*DEFECTS, *HARMLESS]]
    assert len(names) == len(set(names))
    assert {check for defect in DEFECTS for check, _ in defect.found} == {*CHECKS, "refused"} - {"no_held_out_leak"}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_exactly_what_was_planted_is_found(
    defect: Defect, base: BaseRef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _check(defect, base, tmp_path, caplog)


@pytest.mark.parametrize("odd", HARMLESS, ids=lambda odd: odd.name)
def test_what_only_looks_odd_is_left_alone(
    odd: Defect, base: BaseRef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _check(odd, base, tmp_path, caplog)
