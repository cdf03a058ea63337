"""Targets whose text cannot be inferred from the selling points are left out (paper section 4.3.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from uniadgen.config import StagesConfig
from uniadgen.data import executor, llm, support
from uniadgen.data.executor import Execute
from uniadgen.data.job import Fault, Job, Lost, rows
from uniadgen.data.plan import Progress
from uniadgen.data.stages import Stage, fill, key_of, read_all

WAVES = 4  # of requests in one task of the language model


def check_texts(job: Job, lost: Lost, execute: Execute, progress: Progress) -> Lost:
    """Targets go whose text cannot be inferred from the selling points (section 4.3.2); so many fewer are cut out."""
    if job.stages.cleaning == "off":
        return {}
    stage, questions = checks(job)
    if job.stages.cleaning == "llm":
        with executor.processes(1) as here:  # it waits for a server: threads of this process bound the requests
            fill(stage, questions, here, progress)
    else:
        fill(stage, questions, execute, progress)
    answers, found = read_all(stage.folder), Lost()
    for row in rows(job, lost):
        answer = answers.get(_question_key(job, row))
        if answer is None:
            found[row["creative"]] = Fault("no_verdict")
        elif answer["share"] > job.stages.max_unsupported:
            found[row["creative"]] = Fault("unsupported_text", answer["unsupported"])
    return found


def checks(job: Job) -> tuple[Stage, dict[bytes, llm.Question]]:
    """The stage, and every distinct text with its selling points."""
    stages = job.stages
    by_model = stages.cleaning == "llm"
    questions = {
        _question_key(job, row): llm.Question(row["text"], tuple(row["product_selling_points"]))
        for row in rows(job, {})
    }
    columns = pa.schema([("share", pa.float32()), ("unsupported", pa.string())])
    size = WAVES * stages.requests_at_once * stages.texts_per_request if by_model else 16 * stages.items_per_task
    make = AskModel(stages) if by_model else check_by_rule
    return Stage("texts: check", job.place(f"checks-{stages.cleaning}"), columns, make, size), questions


def _question_key(job: Job, row: Mapping[str, Any]) -> bytes:
    how = ("llm", job.stages.llm_model, llm.INSTRUCTION) if job.stages.cleaning == "llm" else ("rule 1",)
    return key_of(*how, row["text"], *row["product_selling_points"])


def check_by_rule(questions: Sequence[llm.Question]) -> list[dict[str, Any]]:
    """The share of each text's words that no selling point has, and these words."""
    checked = (support.unsupported(question.text, question.selling_points) for question in questions)
    return [{"share": share, "unsupported": ", ".join(words)} for words, share in checked]


@dataclass(frozen=True)
class AskModel:
    """The language model's verdicts as `check_by_rule` gives them: what is not supported is so in all its words."""

    stages: StagesConfig

    def __call__(self, questions: Sequence[llm.Question]) -> list[dict[str, Any] | None]:
        """None where there was no verdict."""
        verdicts = llm.Judge(self.stages)(questions)
        return [v and {"share": 0.0 if v.supported else 1.0, "unsupported": v.unsupported} for v in verdicts]
