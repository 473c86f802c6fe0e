"""Safety slices: the questions in which a wrong answer harms most, found by their words.

negation    what is asked for is what is not so, or a finding is denied: negating words, other than `no` for number
dosing      how much is to be given: doses, infusions, amounts per weight
paediatric  the patient is a child: words for children, or an age below 18, in years unless it says otherwise
pregnancy   pregnancy, birth and breast-feeding
"""

import re

_ADULT = 18
_AGE = re.compile(r"\b(\d{1,3})[- ]years?[- ]old|\baged? (?:of )?(\d{1,3})\b", re.IGNORECASE)

_WORDS = {
    "negation": (
        r"not|cannot|\w+n['’]t|no(?!\.)|none|never|neither|nor|without|except|excluding|denie[sd]|denying|absen(?:t|ce)|"
        r"(?<!at )least|false|incorrect|untrue|unlikely|contra-?indicat\w+|avoid(?:ed)?|rules? out|ruled out"
    ),
    "dosing": (
        r"doses?|dosages?|dosing|infus\w+|titrat\w+|overdos\w+|how much|per kg|"
        r"\d*(?:mg|mcg|µg|μg|g|ml|units?|iu)/kg|\d*(?:mg|mcg|g|units?)/m[2²]|per kilogram|"
        r"(?:once|twice|(?:two|three|four) times) (?:a day|daily)|every \d+ hours"
    ),
    "paediatric": (
        r"child(?!-?bearing|birth|[- ]pugh)|children|childhood|infants?|infancy|new-?borns?|neonat\w+|bab(?:y|ies)|"
        r"toddlers?|boys?|girls?|p(?:a?e|æ)diatric\w*|adolescen\w+|teenage\w*|preterm|premature (?:infant|bab)\w*|"
        r"\d+[- ](?:days?|weeks?|months?)[- ]old|apgar"
    ),
    "pregnancy": (
        r"pregnan\w+|gestation\w*|gravida|(?:primi|multi)(?:gravid|par)\w+|trimester|antenatal|prenatal|perinatal|"
        r"post-?partum|breast-?feed\w*|breast-?fed|lactati\w+|in labou?r|(?:pre-?)?eclampsia|placent\w+|"
        r"f(?:o?e|œ)t(?:al|us)\w*|childbirth|obstetric\w*|caesarean|cesarean"
    ),
}
SLICES = {name: re.compile(rf"(?<![\w-])(?:{words})(?!\w)", re.IGNORECASE) for name, words in _WORDS.items()}
"""Slice → what a question of it says."""


def find_slices(question: str) -> list[str]:
    """The slices that a question is in, without its options: `none of the above` negates nothing."""
    found = [name for name, words in SLICES.items() if words.search(question)]
    if "paediatric" not in found and _is_child(question):
        found.append("paediatric")
    return sorted(found)


def _is_child(question: str) -> bool:
    ages = [int(first or second) for first, second in _AGE.findall(question)]
    return any(age < _ADULT for age in ages)
