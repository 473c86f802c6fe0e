"""Names of persons in a medical text. Medicine is full of other people's names, so a name alone never counts."""

import re
from collections.abc import Iterator

# Common given names: facts, as birth registries count them, with some of other countries.
_GIVEN = frozenset(
    str.split(
        "James John Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony "
        "Mark Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Timothy Ronald Edward Jason Jeffrey Ryan "
        "Jacob Gary Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Frank Alexander "
        "Raymond Patrick Jack Dennis Jerry Tyler Aaron Jose José Adam Henry Nathan Douglas Zachary Peter Kyle Walter "
        "Ethan Jeremy Harold Keith Christian Roger Noah Gerald Carl Terry Sean Austin Arthur Lawrence Jesse Dylan "
        "Bryan Joe Jordan Billy Bruce Albert Gabriel Logan Alan Juan Wayne Ralph Randy Eugene Vincent Russell Elijah "
        "Louis Bobby Philip Johnny Bob Tom Jim Mike Bill Luis Carlos Miguel Ahmed Mohammed Muhammad Mohamed Ali Omar "
        "Raj Rajesh Wei Hiroshi Hans Pierre Ivan Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah "
        "Karen Lisa Nancy Betty Margaret Sandra Ashley Kimberly Emily Donna Michelle Carol Amanda Dorothy Melissa "
        "Deborah Stephanie Rebecca Sharon Laura Cynthia Kathleen Amy Angela Shirley Anna Brenda Pamela Emma Nicole "
        "Helen Samantha Katherine Christine Debra Rachel Carolyn Janet Catherine Maria María Heather Diane Ruth Julie "
        "Olivia Joyce Virginia Victoria Kelly Lauren Christina Joan Evelyn Judith Megan Andrea Cheryl Hannah "
        "Jacqueline Martha Gloria Teresa Ann Sara Madison Frances Kathryn Janice Jean Jane Abigail Alice Julia Judy "
        "Sophia Grace Denise Doris Marilyn Danielle Beverly Isabella Theresa Diana Natalie Brittany Charlotte Marie "
        "Kayla Alexis Fatima Aisha Priya Mei Yuki Carmen Rosa Ana Ingrid Olga"
    )
)
# Pairs that begin with a given name and are no person: signs and syndromes, as texts write them.
_EPONYMS = frozenset(
    {
        "Steven Johnson",
        "Stevens Johnson",
        "Russell Silver",
        "Charles Bonnet",
        "Austin Flint",
        "Graham Steell",
        "Henry Ford",
    }
    | {"William Campbell", "James Parkinson", "Robert Koch", "Virginia Apgar", "Jean Charcot", "Louis Bar", "John Snow"}
)
# Capitalised words that are no part of a name: they open sentences, forms and names of places or things.
_NOT_NAMES = frozenset(
    str.split(
        "a all also an and any are as at both but can chief did do does for from good had has have he her hello her "
        "his how i if in is it its my no none not of on or our she since so that the their then there these they this "
        "to was we well what when where which who why with yes you your please thank thanks hi dear ok okay mr mrs ms "
        "dr miss age aged sex gender male female man woman boy girl race address phone tel email dob mrn ssn id no "
        "number date birth name names patient patients pt doctor nurse physician surgeon emergency department "
        "hospital clinic center centre university medical medicine school college institute general ward unit room "
        "care health home intensive outpatient inpatient surgery information history complaint complains diagnosis "
        "assessment plan body weight height blood pressure heart rate temperature chest pain abdominal acute chronic "
        "severe type stage grade class case report note notes chart record vitals lab labs results test tests exam "
        "examination score index scale syndrome disease sign disorder deficiency fever cancer infection failure "
        "stroke injury fracture tablet tablets capsule drug dose sodium acid hydrochloride vaccine position "
        "presentation unknown anonymous withheld redacted available confidential deidentified removed hidden new los "
        "san santa saudi sri costa puerto united hong las north south east west northern southern eastern western "
        "african american asian caucasian hispanic indian european native white black january february march april "
        "may june july august september october november december monday tuesday wednesday thursday friday saturday "
        "sunday"
    )
)
# After a name these say that it belongs to a finding, a place or a book.
_THING_AFTER = re.compile(
    r"(?:['’]s)?[\s-]{1,2}(?:\w{1,20}[\s-])?(?:syndrome|disease|sign|test|score|scale|index|criteria|classification|"
    r"disorder|deformity|fracture|reaction|procedure|operation|method|technique|law|phenomenon|effect|murmur|palsy|hospital|"
    r"university|college|clinic|institute|foundation|school|center|centre|et al)\b",
    re.IGNORECASE,
)

_PART = r"[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]{1,20}"
_TOKEN = rf"(?:[A-ZÀ-ÖØ-Þ]['’])?{_PART}(?:{_PART})?(?:-{_PART})?(?![a-zß-öø-ÿ])"
_PARTICLES = r"(?:(?:de|la|del|van|von|der|den|di|da|dos|al|el|bin|ibn|ter|le) ){0,3}"
_INITIAL = r"(?:[A-Z]\.? )?"
_NAME = rf"{_PARTICLES}{_TOKEN}(?: {_INITIAL}{_PARTICLES}{_TOKEN}){{0,2}}"
_FULL_NAME = rf"(?:[A-Z]\. ?){{0,2}}{_TOKEN}(?: {_INITIAL}{_PARTICLES}{_TOKEN}){{1,2}}"
# After a label a name may also be in capitals, or turned round: SMITH, JOHN Q.
_WRITTEN = r"(?:[A-ZÀ-ÖØ-Þ]['’]?[\w'’-]{1,24}|[A-Z]\.)"
_WRITTEN_NAME = rf"{_WRITTEN}(?:,? {_PARTICLES}{_WRITTEN}){{0,3}}"

# Mr. Smith, Mrs Jane Doe, Ms. O'Brien: the dot is optional, MR, MS and MRS in capitals are imaging and diseases,
# 'Mr. X' and 'Mr. S.' are nobody. 'Miss' is also a verb ('Will We Miss Cancers'): it needs a given name.
_TITLED = re.compile(rf"\b(?:Mrs?|Ms|Mx|Miss(?= (?:{'|'.join(sorted(_GIVEN))})\b))\b\.?\s{{1,2}}({_NAME})")
# Dr. Smith counts as someone's doctor only: elsewhere doctors are the authors of signs and books.
_DOCTOR = re.compile(
    rf"(?:(?:\b(?:seen|referred|followed|evaluated|examined|treated|sent|admitted|discharged|ordered|prescribed|"
    rf"operated on) (?:by|to)|"
    rf"\b(?:physician|doctor|surgeon|cardiologist|oncologist|attending|pediatrician|appointment with|visit with|"
    rf"sees?|saw|dear)),?:? "
    rf"(?:Dr|Doctor)\b\.?\s({_NAME})|\b(?:Dr|Doctor)\b\.?\s({_NAME})(?=['’]s (?:office|clinic|patient|practice)|"
    rf",? M\.?D\b"
    rf"| (?:saw|sees|examined|examines|ordered|prescribed|admitted|discharged|will see)\b))"
)
# Patient name: Jane Doe; Name: Doe, Jane; Pt: John Q. Smith; my name is Jane Doe; a man named John Smith.
# 'Generic name: …', 'Test name: …' have a word before 'name'. What follows must not be a word of forms (_NOT_NAMES).
_LABELLED = re.compile(
    rf"(?:\b(?i:patient(?:['’]?s)?(?: full| last| first)? name|name of (?:the )?patient|full name)\s?(?i::|=|"
    rf"\bis\b)\s{{0,3}}({_WRITTEN_NAME})"
    rf"|(?:^|[\n;|(>*]|[.,] )[ \t*]{{0,4}}(?i:name|patient|pt)\*{{0,2}} ?:\*{{0,2}}\s{{0,3}}({_WRITTEN_NAME})"
    rf"|\b(?i:my name is) ({_WRITTEN_NAME})"
    rf"|\b(?:man|woman|boy|girl|patient|child|infant|male|female|gentleman|lady|person|son|daughter) (?:named|"
    rf"called) ({_FULL_NAME}))"
)
# Which texts have a label: words that many texts have first, then what must follow them.
_LABEL_WORDS = ("name", "Name", "NAME", "tient:", "Pt:", "PT:", "pt: ", " called ")
_LABELS = (
    "ame:",
    "ame :",
    "ame =",
    "ame is",
    "ame*",
    "AME",
    "tient:",
    "Pt:",
    "PT:",
    "pt: ",
    " called ",
    " named ",
    "f the p",
)

# A capitalised word and the one after it; the second may begin the next pair.
_FIRST_OF_PAIR = re.compile(r"[A-Z]\w+(?= [A-Z])")
_PAIR = re.compile(rf"\b({_TOKEN})(?= {_INITIAL}({_PARTICLES}{_TOKEN}))")
_AGE = r"\d{1,3}(?:[ -]?(?:years?|yrs?|months?|weeks?)[ -]olds?\b|[ -]?y/?o\b)"
# Nobody else is written with two capitalised words and an age: no given name is needed.
_AGED = re.compile(
    rf"([A-ZÀ-ÖØ-Þ][\w'’-]{{1,24}} {_INITIAL}{_PARTICLES}{_TOKEN})(?:,? \(?| (?:is|was) )(?:(?:an?|aged?) )?{_AGE}"
)
_PERSON_AFTER = re.compile(
    rf",? \(?(?:(?:is |was )?(?:an?|aged?) )?{_AGE}| \(\d{{1,3}} ?/? ?[MF]\b|,? aged \d|, \d{{1,3}}, [a-z]|"
    r" (?:presents\b|presented (?:with|to)|complain(?:s|ed|ing) of|reports\b|comes (?:in|to)|came (?:in|to)|"
    r"visit(?:s|ed) (?:the|his|her|your)|"
    r"live[sd] (?:at|in|on|with|alone)|denies\b|suffers\b|underwent\b|takes\b|returns (?:to|for)|arrive[sd]\b|"
    r"smokes\b|drinks\b|"
    r"works (?:as|at|in)|weighs\b|(?:is|was) (?:admitted|seen|brought|referred|diagnosed|discharged|hospitali[sz]ed|"
    r"transferred|evaluated|treated|prescribed|scheduled|complaining|taking|my patient|a patient|your patient)\b|"
    r"has (?:an?|no|had|type|chest|severe|been (?:having|taking|feeling|admitted|coughing|diagnosed|experiencing))\b|"
    r"had an? )"
    r"|[,;(\s]{1,3}(?:DOB|D\.O\.B|MRN|SSN|born on|[Dd]ate of birth|[Mm]edical record|[Pp]hone|[Tt]el\b|who lives|"
    r"lives at|residing)"
    r"|['’]s (?:charts?|records?|symptoms|mother|father|wife|husband|parents|daughter|son|family|doctor|physician|"
    r"labs?|"
    r"vitals?|condition|medications?|history|birthday|address|phone|appointment|pain)\b"
)
_PERSON_BEFORE = re.compile(
    r"(?:\b(?:[Pp]atient|[Pp]t|client|son|daughter|wife|husband|mother|father|brother|sister|boy|girl|man|woman|"
    r"gentleman|"
    r"lady|named|name is|I am|I['’]m|[Dd]ear|[Rr][Ee]:|[Rr]egarding)[,:]? )$"
)
_BEFORE_CHARACTERS = 14


def person_names(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every name of a person, in no order; a found name's words count wherever they come again."""
    found = [span for span in (*_titled(text), *_labelled(text), *_in_context(text)) if span is not None]
    if found:
        yield from found
        yield from _again(text, found)


def _titled(text: str) -> Iterator[tuple[int, int] | None]:
    if "Mr" in text or "Ms" in text or "Miss " in text or "Mx" in text:
        yield from (_trimmed(text, *match.span(1)) for match in _TITLED.finditer(text))
    if "Dr" in text or "Doctor" in text:
        yield from (_trimmed(text, *match.span(match.lastindex or 0)) for match in _DOCTOR.finditer(text))


def _labelled(text: str) -> Iterator[tuple[int, int] | None]:
    if not any(word in text for word in _LABEL_WORDS) or not any(label in text for label in _LABELS):
        return
    for match in _LABELLED.finditer(text):
        span = _trimmed(text, *match.span(match.lastindex or 0))
        # one word after a bare 'Name:' may be anything; after 'patient name' it is a name
        if span and (match.lastindex in {1, 3} or " " in text[slice(*span)]):
            yield span


def _in_context(text: str) -> Iterator[tuple[int, int] | None]:
    """Given name and surname where something says that a person is meant; any two words where an age follows."""
    firsts = _FIRST_OF_PAIR.findall(text)
    if firsts and ("old" in text or "y/o" in text or "yo " in text):
        yield from (_whole(text, *match.span(1)) for match in _AGED.finditer(text))
    if _GIVEN.isdisjoint(firsts):
        return
    for match in _PAIR.finditer(text):
        start, end = match.start(), match.end(2)
        if match[1] in _GIVEN and f"{match[1]} {match[2]}" not in _EPONYMS and not _THING_AFTER.match(text, end):
            before = text[max(0, start - _BEFORE_CHARACTERS) : start]
            if _PERSON_AFTER.match(text, end) or _PERSON_BEFORE.search(before):
                yield _whole(text, start, end)


def _whole(text: str, start: int, end: int) -> tuple[int, int] | None:
    return (start, end) if _trimmed(text, start, end) == (start, end) else None


_WORD = re.compile(r"[^\s,]+")


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The name up to its first word that belongs to no name, without a possessive; None if nothing is left of it."""
    stop = start
    for word in _WORD.finditer(text, start, end):
        if word[0].strip(".'’").lower() in _NOT_NAMES:
            break
        stop = word.end()
    name = re.sub(r"['’]s?$", "", text[start:stop])
    return (start, start + len(name)) if re.search(r"[^\W\d_]{2}", name) else None


_AGAIN = re.compile(r"\b[A-ZÀ-ÖØ-Þ][\w'’-]{2,24}")


def _again(text: str, found: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Where words of the found names stand alone: 'Mr. Smith' makes 'Smith' tell just as much."""
    names = {word for start, end in found for word in re.findall(r"[^\W\d_][\w'’-]{2,}", text[start:end])}
    for match in _AGAIN.finditer(text):
        word = re.sub(r"['’]s?$", "", match[0])
        if word in names and not _THING_AFTER.match(text, match.start() + len(word)):
            yield match.start(), match.start() + len(word)
