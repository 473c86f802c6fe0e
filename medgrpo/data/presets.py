"""Source: public medical question sets that medgrpo knows: their columns, licences and citations."""

import ast
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from medgrpo.data.columns import ColumnMap, read_examples
from medgrpo.data.file import FileSource
from medgrpo.data.formats import RawRow
from medgrpo.data.hub import COMMIT, HubSource
from medgrpo.data.patient_data import listed, shown
from medgrpo.data.source import Licence, Source
from medgrpo.types import Example, Kind, Origin

PresetName = Literal[
    "medical-o1-reasoning-sft",
    "medical-o1-verifiable-problem",
    "medqa-4",
    "medqa-5",
    "medmcqa",
    "pubmedqa",
    "mmlu-anatomy",
    "mmlu-clinical-knowledge",
    "mmlu-college-biology",
    "mmlu-college-medicine",
    "mmlu-medical-genetics",
    "mmlu-professional-medicine",
    "medcalc",
]
Raw = Mapping[str, Any]


class Preset(NamedTuple):
    """What is known of a set."""

    kind: Kind
    columns: ColumnMap
    licence: str
    citation: str
    repo: str = ""
    """Its hub repository; empty: none that we can vouch for."""
    config: str = ""
    split: str = "train"
    convert: Callable[[Raw], Raw] | None = None
    """From a row as published to the columns of `columns`, where names alone don't do."""
    header: tuple[str, ...] = ()
    """Its column names, where it is also published as CSV without a header."""
    csv_columns: ColumnMap | None = None
    """The columns of that CSV."""
    topic: str = ""
    """The topic of all rows, where no column has one."""


class PresetSource(Source):
    """A public set: a local file in the form in which it is published, or its hub repository."""

    kind: Literal["preset"] = "preset"
    """Chooses this source."""
    name: PresetName
    """The set."""
    path: str = ""
    """A file in the set's public form; empty: the hub."""
    revision: str = Field(default="", pattern=COMMIT)
    """The hub repository's commit: 40 hexadecimal digits. `medgrpo prepare` prints the newest."""
    split: str = ""
    """Split of the hub repository; empty: train, of the MMLU sets test."""
    licence: Licence = ""
    """SPDX identifier; empty: the licence that the set is published under."""
    citation: str = ""
    """Kept with every example; empty: the set's paper."""
    limit: int = Field(default=0, ge=0)
    """Read only the first rows; 0: all."""

    @model_validator(mode="after")
    def _path_or_hub(self) -> "PresetSource":
        if self.path and (self.revision or self.split):
            raise ValueError("give either path, or revision and split: those are of the hub repository")
        if not self.path and not PRESETS[self.name].repo:
            raise ValueError(f"{self.name} has no hub repository that we can vouch for: give path, a file of the set")
        return self

    def load(self, seed: int) -> list[Example]:
        """Read the set.

        Raises:
            ConfigError: the set is to come from the hub, and there is no revision.
            DataError: it can't be had, or rows are not as the set publishes them.
        """
        inner = self._inner()
        place = inner.path if isinstance(inner, FileSource) else inner.label
        rows = map(partial(_convert, PRESETS[self.name]), inner.rows())
        return read_examples(rows, inner.columns, inner.example_kind, place, inner.citation, self.limit)

    def origin(self) -> Origin:
        """The set by its name here, since a hub repository can hold several."""
        return self._inner().origin().model_copy(update={"name": self.name})

    def pinned(self) -> Self:
        """The source at the commit that its hub repository is at; a file is pinned as it is.

        Raises:
            DataError: neither the hub nor the cache knows the repository.
        """
        inner = self._inner().pinned()
        return self.model_copy(update={"revision": inner.revision}) if isinstance(inner, HubSource) else self

    def _inner(self) -> FileSource | HubSource:
        """The file or hub source that reads the set's rows."""
        preset = PRESETS[self.name]
        licence, citation = self.licence or preset.licence, self.citation or preset.citation
        if not self.path:
            return HubSource(
                repo=preset.repo,
                revision=self.revision,
                config=preset.config,
                split=self.split or preset.split,
                example_kind=preset.kind,
                columns=preset.columns,
                licence=licence,
                citation=citation,
            )
        is_bare = preset.csv_columns is not None and self.path.lower().endswith(".csv")
        return FileSource(
            path=self.path,
            example_kind=preset.kind,
            columns=preset.csv_columns if preset.csv_columns and is_bare else preset.columns,
            header=preset.header if is_bare else (),
            licence=licence,
            citation=citation,
        )


def _convert(preset: Preset, row: RawRow) -> RawRow:
    """A row with the columns that the preset's column map names; what goes wrong becomes the row's fault."""
    if row.fault:
        return row
    try:
        values = preset.convert(row.values) if preset.convert else row.values
    except KeyError as error:
        return row._replace(values={}, fault=f"no column {error}; the columns are: {listed(row.values)}")
    except (ValueError, TypeError, SyntaxError) as error:
        return row._replace(values={}, fault=str(error))
    return row._replace(values={**values, "topic": preset.topic} if preset.topic else values)


def _convert_pubmedqa(row: Raw) -> Raw:
    """Published as an object by PubMed id with capital names; on the hub as rows."""
    is_file = "QUESTION" in row
    contexts = row["CONTEXTS"] if is_file else row["context"]["contexts"]
    question = row["QUESTION" if is_file else "question"]
    return {
        "id": row.get("key") if is_file else row["pubid"],
        "question": "\n".join(contexts) + f"\n\n{question}",
        "options": ["yes", "no", "maybe"],
        "gold": row["final_decision"],
        "reasoning": row["LONG_ANSWER" if is_file else "long_answer"],
    }


def _convert_medcalc(row: Raw) -> Raw:
    kind, gold = _read_medcalc_gold(str(row["Output Type"]), str(row["Ground Truth Answer"]).strip())
    return {
        "id": row["Row Number"],
        "kind": kind,
        "question": f"{row['Patient Note']}\n\n{row['Question']}",
        "gold": gold,
        "lower": row["Lower Limit"],
        "upper": row["Upper Limit"],
        "topic": row["Calculator Name"],
        "reasoning": row["Ground Truth Explanation"],
    }


def _read_medcalc_gold(output: str, gold: str) -> tuple[Kind, str]:
    """Kind and gold: a number, a day, or a gestational age such as `(34 weeks, 3 days)`, as the questions ask for it.

    Golds of output type integer need not be whole: doses such as 2.47001 are among them, with limits around them.
    """
    if output in ("decimal", "integer"):
        return "numeric", gold
    if output != "date":
        raise ValueError(f"'Output Type' {shown(output)!r} is none of decimal, integer, date")
    if re.fullmatch(r"\d{1,2}/\d{1,2}/\d{4}", gold):
        return "date", gold
    if re.fullmatch(r"\(\d+ weeks?, \d+ days?\)", gold):
        return "text", gold
    if re.fullmatch(r"\('\d+ weeks?', '\d+ days?'\)", gold):
        return "text", f"({', '.join(ast.literal_eval(gold))})"
    raise ValueError(f"'Ground Truth Answer' {shown(gold)!r} is neither a month/day/year nor weeks and days")


def _huatuo(name: str, columns: ColumnMap, config: str = "") -> Preset:
    citation = "HuatuoGPT-o1 (Chen et al. 2024, arXiv:2412.18925)"
    return Preset("text", columns, "apache-2.0", citation, f"FreedomIntelligence/{name}", config)


def _medqa(repo: str = "") -> Preset:
    columns = ColumnMap(
        question="question", options="options", gold="answer_idx", gold_text="answer", topic="meta_info"
    )
    return Preset("choice", columns, "mit", "MedQA (Jin et al. 2020, arXiv:2009.13081)", repo)


def _mmlu(subject: str) -> Preset:
    shared = {"question": "question", "gold": "answer", "topic": "topic"}
    letters = ("A", "B", "C", "D")
    return Preset(
        kind="choice",
        columns=ColumnMap(**shared, options="choices", label_base=0),
        licence="mit",
        citation="MMLU (Hendrycks et al. 2021, arXiv:2009.03300)",
        repo="cais/mmlu",
        config=subject,
        split="test",
        header=("question", *letters, "answer"),
        csv_columns=ColumnMap(**shared, options=letters),
        topic=subject,
    )


PRESETS: dict[PresetName, Preset] = {
    "medical-o1-reasoning-sft": _huatuo(
        "medical-o1-reasoning-SFT",
        ColumnMap(question="Question", gold="Response", reasoning="Complex_CoT", original="question"),
        "en",
    ),
    "medical-o1-verifiable-problem": _huatuo(
        "medical-o1-verifiable-problem",
        ColumnMap(question="Open-ended Verifiable Question", gold="Ground-True Answer", original="question"),
    ),
    "medqa-4": _medqa("GBaker/MedQA-USMLE-4-options"),
    "medqa-5": _medqa(),
    "medmcqa": Preset(
        kind="choice",
        # Golds are 1 to 4 in the authors' files and 0 to 3 on the hub: found out from the rows.
        columns=ColumnMap(
            question="question",
            options=("opa", "opb", "opc", "opd"),
            gold="cop",
            id="id",
            topic="subject_name",
            reasoning="exp",
        ),
        licence="mit",
        citation="MedMCQA (Pal et al. 2022, arXiv:2203.14371)",
        repo="openlifescienceai/medmcqa",
    ),
    "pubmedqa": Preset(
        kind="choice",
        columns=ColumnMap(
            question="question", options="options", gold="gold", id="id", topic="topic", reasoning="reasoning"
        ),
        licence="mit",
        citation="PubMedQA (Jin et al. 2019, arXiv:1909.06146)",
        repo="qiaojin/PubMedQA",
        config="pqa_labeled",
        convert=_convert_pubmedqa,
        topic="pubmedqa",
    ),
    "mmlu-anatomy": _mmlu("anatomy"),
    "mmlu-clinical-knowledge": _mmlu("clinical_knowledge"),
    "mmlu-college-biology": _mmlu("college_biology"),
    "mmlu-college-medicine": _mmlu("college_medicine"),
    "mmlu-medical-genetics": _mmlu("medical_genetics"),
    "mmlu-professional-medicine": _mmlu("professional_medicine"),
    "medcalc": Preset(
        kind="numeric",
        columns=ColumnMap(
            question="question",
            gold="gold",
            id="id",
            kind="kind",
            lower="lower",
            upper="upper",
            topic="topic",
            reasoning="reasoning",
        ),
        licence="cc-by-sa-4.0",
        citation="MedCalc-Bench (Khandekar et al. 2024, arXiv:2406.12036)",
        repo="ncbi/MedCalc-Bench-v1.2",
        convert=_convert_medcalc,
    ),
}
