"""Questions and answers from documents: from chunks of them, and only answers that the judge lets through."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from typer.testing import CliRunner

from tests.configs.shipped import CONFIGS, ran, rows_of, shipped

PARAGRAPH = "The ferry leaves at nine. It crosses the bay in an hour and comes back at noon, if the wind is weak.\n\n"


def verdict(is_grounded: bool, is_answer: bool) -> dict[str, object]:
    return {"reason": "said", "is_grounded": is_grounded, "is_answer": is_answer}


def test_every_chunk_is_asked_about_and_every_answer_checked(tmp_path: Path) -> None:
    result = ran(shipped("document_qa"), tmp_path)
    counts = {name: figures["rows_out"] for name, figures in result.manifest["steps"].items()}
    assert [counts[name] for name in ("chunks", "questions", "answers", "check")] == [3, 12, 12, 12]
    assert len(rows_of(result)) == counts["grounded"] == 12 - result.manifest["steps"]["grounded"]["rows_filtered"]
    assert list(rows_of(result)[0])[:4] == ["question", "answer", "context", "chunk_index"]


def test_only_answers_that_pass_the_check_are_kept(tmp_path: Path) -> None:
    documents = [{"text": f"{name} {PARAGRAPH}"} for name in ("Alder", "Birch", "Cedar")]
    checked = {"Alder": verdict(True, True), "Birch": verdict(False, True), "Cedar": verdict(True, False)}
    rows = rows_of(ran(shipped("document_qa", data=documents, answers={"judge": checked}), tmp_path))
    assert [row["context"].split()[0] for row in rows] == ["Alder"] * 4
    assert len({row["question"] for row in rows}) == 4


def test_chunks_are_parts_of_their_document(tmp_path: Path) -> None:
    documents = [{"text": PARAGRAPH * 20}, {"text": "Short."}, {"text": " "}]
    pipeline = shipped("document_qa", ["chunks.size=250"], documents, {"judge": {"": verdict(True, True)}})
    rows = rows_of(ran(pipeline, tmp_path))
    assert [row["chunk_index"] for row in rows] == [index for index in (*range(10), 0) for _ in range(4)]
    assert all(row["context"] in documents[row["_position"]]["text"] and len(row["context"]) <= 250 for row in rows)
    assert rows[0]["context"] == (PARAGRAPH * 2).strip()
    assert [row["_path"] for row in rows[:5]] == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


def test_a_folder_of_texts_is_an_input(tmp_path: Path) -> None:
    from raypipe.cli.commands import app

    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("alder.md", "birch.txt"):
        (docs / name).write_text(f"{name} {PARAGRAPH}")
    given = ["--input", docs, "--set", "dataset.columns=[file, question, answer, context]", "--out", tmp_path / "out"]
    spec = CONFIGS / "document_qa.yaml"
    result = CliRunner().invoke(app, ["run", *map(str, [spec, "--engine", "local", *given])])
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "data" / "dataset").to_pylist()
    assert rows
    assert all(row["context"].startswith(row["file"]) for row in rows)
