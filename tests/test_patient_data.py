import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgrpo.data.clinical import generate
from medgrpo.data.patient_data import describe, find, mask

POSITIVE = {
    "name": [
        ("Patient name: Jane Doe", "Jane Doe"),
        ("Name: Doe, Jane\nAge: 45", "Doe, Jane"),
        ("PATIENT NAME: SMITH, JOHN Q. DOB unknown", "SMITH, JOHN Q."),
        ("Pt: John Q. Smith presents with a cough.", "John Q. Smith"),
        ("The wife of Mr. Smith says that he snores.", "Smith"),
        ("Mrs Jane O'Brien is 70.", "Jane O'Brien"),
        ("I spoke with Ms. van der Berg today.", "van der Berg"),
        ("Hello doctor, my name is Xochitl Ramirez and I cough.", "Xochitl Ramirez"),
        ("A man named Tobias Quill is brought in.", "Tobias Quill"),
        ("John Smith, a 45-year-old man, has chest pain.", "John Smith"),
        ("Yesterday Maria Garcia-Lopez was admitted with fever.", "Maria Garcia-Lopez"),
        ("Ngozi Okafor is a 30-year-old teacher.", "Ngozi Okafor"),
        ("He was referred by Dr. Keller for a biopsy.", "Keller"),
        ("We reviewed Sarah Miller's chart.", "Sarah Miller"),
        ("The patient, José Núñez, was sent home.", "José Núñez"),
    ],
    "birth date": [
        ("DOB: 03/14/1961", "03/14/1961"),
        ("dob 3-4-61, male", "3-4-61"),
        ("D.O.B. 14.03.1961", "14.03.1961"),
        ("Date of birth (mm/dd/yyyy): 03/14/1961", "03/14/1961"),
        ("date of birth is 1961-03-14", "1961-03-14"),
        ("Birthdate: March 14, 1961.", "March 14, 1961"),
        ("She was born on the 14th of March 1961 in a village.", "14th of March 1961"),
        ("A patient born 14 Mar 1961", "14 Mar 1961"),
    ],
    "phone": [
        ("Reach the family at (312) 555-0167.", "(312) 555-0167"),
        ("312-555-0167", "312-555-0167"),
        ("call 312.555.0167 after six", "312.555.0167"),
        ("+1 312 555-0167", "+1 312 555-0167"),
        ("1-800-555-0199 is the hotline", "1-800-555-0199"),
        ("mobile +49 30 1234567", "+49 30 1234567"),
        ("His number +33 6 12 34 56 78 is new.", "+33 6 12 34 56 78"),
        ("Phone: 555 0167", "555 0167"),
        ("Tel. 03 9876 5432", "03 9876 5432"),
        ("Call her daughter on 020 7946 0958.", "020 7946 0958"),
        ("WhatsApp 07700 900123", "07700 900123"),
        ("Telefon 030/12345678", "030/12345678"),
        ("her number is (01632) 960123", "(01632) 960123"),
    ],
    "e-mail": [
        ("write to jane.doe@example.com", "jane.doe@example.com"),
        ("<j.d+x@clinic.example.org>", "j.d+x@clinic.example.org"),
        ("JANE@EXAMPLE.NET!", "JANE@EXAMPLE.NET"),
        ("mail:anna_k@web.de.", "anna_k@web.de"),
        ("(bob99@mail.example.co.uk)", "bob99@mail.example.co.uk"),
        ("zoë@exämple.org", "zoë@exämple.org"),
        ("a-b@c-d.io, and", "a-b@c-d.io"),
        ("x@y1.museum", "x@y1.museum"),
    ],
    "record number": [
        ("MRN: 00123456", "00123456"),
        ("MRN 4432190, ward 3", "4432190"),
        ("MRN# 4432", "4432"),
        ("medical record number is 12-34-56", "12-34-56"),
        ("Medical record no. A123456", "A123456"),
        ("Patient ID: AB-99120", "AB-99120"),
        ("Hospital No: H1234567", "H1234567"),
        ("chart no. 55120", "55120"),
        ("NHS number 943 4765919", "943 4765919"),
    ],
    "social security number": [
        ("SSN 123-45-6789", "123-45-6789"),
        ("SSN: 123456789", "123456789"),
        ("social security number 123 45 6789", "123 45 6789"),
        ("Social Security no. 123-45-6789", "123-45-6789"),
        ("his number is 219-09-9999.", "219-09-9999"),
        ("(078-05-1120)", "078-05-1120"),
        ("ssn is 123-45-6789", "123-45-6789"),
        ("SSN# 123-45-6789", "123-45-6789"),
    ],
    "address": [
        ("She lives at 12 Oak Street with her son.", "12 Oak Street"),
        ("221B Baker Street, London NW1 6XE", "221B Baker Street, London NW1 6XE"),
        ("350 5th Avenue, New York, NY 10118", "350 5th Avenue, New York, NY 10118"),
        ("1600 N. Maple Grove Ave, Apt 4", "1600 N. Maple Grove Ave, Apt 4"),
        ("sent to 7 Mill Rd.", "7 Mill Rd."),
        ("at 45 Sunset Boulevard", "45 Sunset Boulevard"),
        ("home: 9 Elm Ct, Springfield, IL 62701-1234", "9 Elm Ct, Springfield, IL 62701-1234"),
        ("P.O. Box 1234", "P.O. Box 1234"),
        ("88 King George Drive", "88 King George Drive"),
    ],
}  # fmt: skip

NEGATIVE = {
    "name": [
        "James Parkinson described the shaking palsy in 1817.",
        "Graves Disease, Down syndrome and Wilson Disease in a 45-year-old man",
        "Charcot-Marie-Tooth is tested by Child-Pugh and Glasgow Coma Scale.",
        "Robert Koch's postulates were published in Berlin.",
        "Steven Johnson syndrome after Sulfa Drugs; Austin Flint murmur; Charles Bonnet syndrome",
        "Patients were treated at Henry Ford Hospital.",
        "Ref: Textbook of Surgery by William D. Tanner, Michael Grass, 7th ed, p 12",
        "Generic name: Amoxicillin Trihydrate. Name the Nerve: Vagus",
        "Will We Miss Cancers if MR Imaging is skipped? Moderate MR. Mild AS.",
        "Dr Bernhard Keller gave the classification. The technique of Dr. Apgar",
        "A protein of Mr 50,000; Mr. X and Ms. Y disagree.",
        "In the Emergency Department, a 45-year-old man collapses. African American, 45-year-old",
        "Patient: Chest Pain. Patient Information Age: 1 day",
        "A sign called Hampton Hump; a gene named Sonic Hedgehog; a condition called Barrett Esophagus",
        "Patient name: unknown",
    ],
    "birth date": [
        "Her last menstrual period was on 03/14/2020; due date?",
        "Infants born on 1 January 1990 or later were followed.",
        "born at 32 weeks with a birth weight of 1,450 g",
        "Visit of 03/14/2021: birth control was started.",
        "She was born in 1961.",
        "The birth rate fell from 20.1 in 1990 to 12.3 in 2000.",
        "He was born at term on a farm 12/60 of the time.",
        "The newborn's Apgar scores were 7/8/9.",
    ],
    "phone": [
        "Platelets 150-400, leukocytes 4000-11000, ferritin 120 340 1500",
        "PMID 31234567; doi:10.1016/312-555-0167",
        "ISBN 978-312-555-0167-2 and ORCID 0000-0002-1825-0097",
        "Blood pressure 120/80 mm Hg, then 135-140/85-90",
        "Doses of 100-200-1000 mg; code J45.909",
        "Counts reached 1000000 cells. Red cell: 5000000. A white blood cell: 12000/mm3; red cell 5000000/mm3",
        "Patients were interviewed by telephone 2001-2003.",
        "Day 01 2020 to 02 2021, lot 0123 456, p = 0.012 345 6789, 007 12 345",
        "Na+ 140, K+ 4.0, a change of +10, +20 or +30",
        "In an emergency call 911. Contact 3 times 20 minutes",
    ],
    "e-mail": [
        "2 tablets @ 8.00", "pain 3@rest", "@home", "a@b", "dose@5.0 mg", "heart rate @ 90.", "100@1.5", "user@",
    ],
    "record number": [
        "Patient ID cards reduce errors.", "The MRN projects to the forebrain.", "MRN 2015 was the first imaging study.",
        "Record 3 measurements.", "charted 12345 cells", "medical records of 12345 patients", "patient number needed to treat: 12",
        "Hospital number of beds 1200",
    ],
    "social security number": [
        "CAS 123-45-6", "000-12-3456", "666-12-3456", "912-12-3456", "123-00-4567", "123-45-0000",
        "ISSN 1234-5678", "12-123-45-6789-1",
    ],
    "address": [
        "5 French Road blood units", "2 units of blood on the way", "A 12 French Drive catheter", "drive 20 miles down the street",
        "10 mg Drive", "NYHA Class 3 Heart Failure", "In 2004 St. Louis had few cases", "3 Willis circle aneurysms",
        "5 Abdominal CT scans", "12 Cranial Nerves. Place the patient",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "secret"), [(kind, *case) for kind, cases in POSITIVE.items() for case in cases]
)
def test_found(kind: str, text: str, secret: str) -> None:
    assert (kind, secret) in [(span.kind, text[span.start : span.end]) for span in find(text)]
    assert secret not in mask(text)
    assert describe(text).count(f"{kind}: ")
    assert secret not in describe(text)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NEGATIVE.items() for text in texts])
def test_not_found(kind: str, text: str) -> None:
    assert describe(text) == ""
    assert mask(text) == text


def test_masked_forms() -> None:
    text = (
        "Mr. John Smith (jane.doe@example.com, 312-555-0167), DOB: 3/14/1961, MRN 123456, 12 Oak Street. Smith agreed."
    )
    masked = (
        "Mr. J••• S•••• (j•••••••@•••••••.com, •••-•••-••67), DOB: •/••/••••, MRN ••••56, •• O•• S•••••. S•••• agreed."
    )
    assert mask(text) == masked
    assert describe("Phone: (312) 555-0167. Name: John Smith") == "phone: (•••) •••-••67; name: J••• S••••"


def test_a_name_counts_wherever_it_comes_again() -> None:
    masked = mask("Mrs. Wilson fell. Later Wilson's son came. Is it Wilson disease?")
    assert masked == "Mrs. W••••• fell. Later W•••••'s son came. Is it Wilson disease?"


def test_many_are_counted() -> None:
    assert describe(" ".join(f"{c}b@example.org" for c in "abcdefghi")).endswith("; 4 more")


WORD = st.from_regex(r"[A-Z][a-z]{2,9}", fullmatch=True)
NAME = st.tuples(WORD, WORD).map(lambda words: f"Qz{words[0].lower()} Zq{words[1].lower()}")
"""Begins with letters that begin no word that a sentence has."""
SECRET = st.one_of(
    st.from_regex(r"\([2-9][0-9]{2}\) [0-9]{3}-[0-9]{4}", fullmatch=True),
    st.from_regex(r"[a-z]{2,9}(\.[a-z]{2,9})?@[a-z]{2,9}\.(com|org|de)", fullmatch=True),
)


@given(SECRET, st.sampled_from(["The patient's contact is {}, as noted.", "{} was written down", "see ({}) and\n{}"]))
def test_masks_leave_no_way_to_reach_anyone(secret: str, sentence: str) -> None:
    masked = mask(sentence.format(secret, secret))
    assert secret not in masked
    assert not any(part in masked for part in secret.replace("@", " ").replace("-", " ").split() if len(part) > 9)
    assert find(masked) == []


@given(
    NAME,
    st.sampled_from(
        ["Mr. {} fell. {} rose", "Patient name: {}", "my name is {}", "{}, a 45-year-old man,", "a man named {}"]
    ),
)
def test_masks_leave_no_name(name: str, sentence: str) -> None:
    masked = mask(sentence.format(name, name))
    assert not any(part in masked for part in name.split())
    assert find(masked) == []


@given(st.text())
def test_masking_never_fails_and_settles(text: str) -> None:
    spans = find(text)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    assert all(span.start < span.end for span in spans)
    assert mask(mask(text)) == mask(text)


HOSTILE = [
    "a", "Aa ", "1", "1-", "1 ", "(1", "+1 ", "a.", "A. ", "@", "a@a.", "1 Aa ", "Mr. ", "Mr. Aa ", "Name: ", "Name: A. ", "born 1/",
    "DOB ", "MRN: ", "MRN 1-", "tel. ", "tel (1) ", "de la ", "John Aa ", "John A. ", "1 N. Aa Aa ", "Dr. Aa ", "SSN ", "\n", "Aa'", "Aa-",
]  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_megabytes_end(piece: str) -> None:
    mask("Name: born tel MRN SSN 1234-567 old John Aa Street " + piece * (1_000_000 // len(piece)))


def test_builtin_questions_are_clean() -> None:
    for example in generate(5000, 1, ()):
        assert describe("\n".join([example.question, example.gold, *example.options.values(), example.reasoning])) == ""


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)


def read(file: Path) -> Iterator[str]:
    """All texts of a raw file."""
    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            yield from texts_of(list(csv.reader(lines)))
    elif file.suffix == ".jsonl":
        yield from texts_of([json.loads(line) for line in file.read_text().splitlines()])
    else:
        yield from texts_of(json.loads(file.read_text()))


FILES = {
    "medqa/dev_4options.jsonl": {},
    "medmcqa/dev_first2000.jsonl": {},
    "pubmedqa/pqal_train500.json": {},
    "mmlu/anatomy_test.csv": {},
    "mmlu/clinical_knowledge_test.csv": {},
    "medcalc/one_shot_55.csv": {},
    "huatuo/demo_198.json": {},
}


@pytest.mark.parametrize("name", FILES)
def test_hits_in_real_sets(name: str, shared_data: Path) -> None:
    texts = list(read(shared_data / name))
    assert len(texts) > 500
    assert Counter(span.kind for text in texts for span in find(text)) == FILES[name]
