"""The datasets of a run come back from `datasets`, from a folder and from the hub as they were."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError, InputError, OutputError, RaypipeError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.results.card import card, shorten_values
from raypipe.results.hub import Upload
from raypipe.row import Values
from raypipe.steps import Filter, LoadDataFromDicts, Step, StepInput, TextGeneration, step

datasets = pytest.importorskip("datasets")
pytest.importorskip("huggingface_hub")

WRITER = LLM("offline/stand-in")
CANARY = "hf_canary4f1d0a7be93c"


@step(inputs=["number"], outputs=["words"])
def odd_only(row: Values) -> dict[str, Any]:
    if row["number"] % 2 == 0:
        raise ValueError("even")
    return {"words": ["w" * 700] * row["number"]}


@pytest.fixture(scope="module", autouse=True)
def quiet_and_apart(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Three leaves of 10, 5 (5 failed) and 0 rows."""
    with Pipeline("three | leaves") as pipeline:
        seed = LoadDataFromDicts([{"number": number, "topic": f"topic {number}"} for number in range(10)], name="seed")
        ask = TextGeneration("ask", llm=WRITER, template="Tell me of {{ topic }}.", output="answer")
        seed >> [ask, odd_only("odd"), Filter("none", keep="number > 10")]
    return pipeline.run(tmp_path_factory.mktemp("run") / "out", engine="local", max_failed_rows=5)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Result:
    with Pipeline("single") as pipeline:
        LoadDataFromDicts([{"topic": "a"}, {"topic": "b"}], name="seed") >> TextGeneration(
            "ask", llm=WRITER, template="{{ topic }}", output="answer"
        )
    return pipeline.run(tmp_path_factory.mktemp("single") / "out", engine="local")


def header(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


# datasets.


def test_rows_as_a_dataset(result: Result) -> None:
    for leaf, rows in result.items():
        dataset = rows.to_datasets()
        assert dataset.to_list() == rows.to_arrow().to_pylist(), leaf
        assert dataset.column_names == rows.to_arrow().column_names


def test_without_datasets_it_says_what_to_install(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SpecError) as caught:
        result["ask"].to_datasets()
    assert str(caught.value) == "package 'datasets': is not installed; pip install 'raypipe[hub]'"


def test_train_test_split(single: Result, result: Result) -> None:
    halves = single.train_test_split(0.5, seed=7)
    assert list(halves) == ["ask"]
    assert list(halves["ask"]) == ["train", "test"]
    topics = [row["topic"] for half in halves["ask"].values() for row in half]
    assert (sorted(topics), halves["ask"]["train"].num_rows) == (["a", "b"], 1)
    again = single.train_test_split(0.5, seed=7)
    assert [half.to_list() for half in again["ask"].values()] == [half.to_list() for half in halves["ask"].values()]
    kept = single.train_test_split(0.5, shuffle=False)["ask"]["train"]
    assert kept.to_list() == single["ask"].to_arrow().to_pylist()[:1]
    with pytest.raises(InputError, match="the dataset 'none' has 0 rows, too few for 'train' and 'test'"):
        result.train_test_split(0.5)


@pytest.mark.parametrize("size", [0, 1, 1.5, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(size: float, single: Result) -> None:
    with pytest.raises(SpecError, match=f"more than 0 and less than 1, not {size}; write 0.8"):
        single.train_test_split(size)


# Folder.


def test_a_saved_folder_comes_back(result: Result, tmp_path: Path) -> None:
    result.save_to_disk(tmp_path / "saved")
    again = Result.load_from_disk(str(tmp_path / "saved"))
    assert {leaf: rows.to_arrow().to_pylist() for leaf, rows in again.items()} == {
        leaf: rows.to_arrow().to_pylist() for leaf, rows in result.items()
    }
    assert [len(rows) for rows in again.values()] == [len(rows) for rows in result.values()] == [10, 5, 0]
    assert again["ask"].to_arrow().schema.equals(result["ask"].to_arrow().schema)
    assert again.failures.to_arrow().equals(result.failures.to_arrow())
    assert again.manifest == result.manifest | {"saved_as": "Hugging Face datasets"}
    assert (again.path / "pipeline.yaml").read_bytes() == (result.path / "pipeline.yaml").read_bytes()
    assert datasets.load_from_disk(str(again.path / "data" / "odd")).num_rows == 5
    assert again["odd"].to_datasets().to_list() == result["odd"].to_arrow().to_pylist()
    for leaf in ("ask", "odd"):
        loaded = datasets.load_dataset(str(again.path), leaf, split="train")
        assert loaded.to_list() == result[leaf].to_arrow().to_pylist()


def test_a_saved_folder_is_replaced_and_nothing_else_is(result: Result, single: Result, tmp_path: Path) -> None:
    result.save_to_disk(tmp_path / "saved")
    single.save_to_disk(tmp_path / "saved")
    Result.load_from_disk(tmp_path / "saved").save_to_disk(tmp_path / "saved")
    assert list(Result.load_from_disk(tmp_path / "saved")) == ["ask"]
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(OutputError, match="is not empty and holds no saved datasets; it is left as it is"):
        single.save_to_disk(tmp_path / "other")
    with pytest.raises(OutputError, match="is a file"):
        single.save_to_disk(tmp_path / "other" / "file")
    with pytest.raises(InputError, match="holds no saved datasets"):
        Result.load_from_disk(tmp_path / "other")
    with pytest.raises(InputError, match="holds no saved datasets"):
        Result.load_from_disk(single.path)


# Card.


def test_the_header_of_a_card(result: Result, single: Result) -> None:
    assert header(card(result, "me/three", "cc-by-4.0")) == {
        "license": "cc-by-4.0",
        "pretty_name": "three | leaves",
        "size_categories": ["n<1K"],
        "tags": ["synthetic", "raypipe"],
        "configs": [
            {"config_name": leaf, "data_files": [{"split": "train", "path": f"data/{leaf}/part-*.parquet"}]}
            for leaf in ("ask", "odd")
        ],
    }
    only = header(card(single, "me/single"))
    assert "license" not in only
    assert [config["config_name"] for config in only["configs"]] == ["default"]


def test_the_body_of_a_card(result: Result) -> None:
    lines = card(result, "me/three").splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# me/three",
        "## Datasets",
        "## How to run it again",
        "## Models",
        "## Steps",
        "## Failures",
        "## A row of `ask`",
        "## A row of `odd`",
        "## A row of `none`",
    ]
    for line in (
        'odd = load_dataset("me/three", "odd", split="train")  # 5 rows',
        "$ hf download me/three pipeline.yaml --repo-type dataset --local-dir .",
        "$ raypipe run pipeline.yaml --out out/three-leaves",
        "| odd |  | 10 | 5 | 5 | 0 | 5 |",
        "5 rows failed at a step; what would have come of them is missing.",
        "There are no rows.",
    ):
        assert line in lines
    assert any(line.startswith("Synthetic data, made by the pipeline **three \\| leaves**") for line in lines)
    assert any(line.startswith("| offline/stand-in | 10 | 0 | ") for line in lines)
    table = lines[lines.index("## Failures") :]
    assert [line.split(" | ")[0] for line in table if line.startswith("| odd")] == ["| odd"]
    sample = "\n".join(lines).split("## A row of `odd`\n\n```json\n")[1].split("\n```")[0]
    assert json.loads(sample) == {"number": 1, "topic": "topic 1", "words": ["w" * 600 + "… (+100 characters)"]}


def test_long_values_of_a_card_are_cut() -> None:
    assert shorten_values({"a": [list(range(12)), b"123"]}) == {"a": [[*range(10), "… (+2 items)"], "(3 bytes)"]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")],
)
def test_size_categories(rows: int, words: str, single: Result) -> None:
    manifest = single.manifest | {"leaves": {"ask": {"rows": rows, "path": "data/ask"}}}
    larger = Result(single.path)
    larger.manifest = manifest
    assert header(card(larger, "me/larger"))["size_categories"] == [words]


# Hub.


@dataclass
class Hub:
    """A stand-in of the hub's HTTP interface that keeps what is committed."""

    endpoint: str = ""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    created: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    commits: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    authorizations: set[str | None] = field(default_factory=set[str | None])
    is_private: bool = True
    refuses: tuple[int, str] | None = None
    """Status and error of every answer."""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuses is not None:
            return self.refuses[0], {"error": self.refuses[1]}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.endpoint}/datasets/me/set"}
        if path == "/api/datasets/me/set":
            return 200, {"id": "me/set", "private": self.is_private}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/datasets/me/set/tree/main":
            return 200, [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in self.files]
        if path == "/api/datasets/me/set/preupload/main":
            named = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in named]
            return 200, {"files": modes}
        if path == "/api/datasets/me/set/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{self.endpoint}/datasets/me/set/commit/1", "commitOid": "1"}
        return 404, {"error": f"no such path: {path}"}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value)
            elif line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            else:
                del self.files[value["path"]]

    def write_to(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def answers_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.authorizations.add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, said = hub.answer(self.path.partition("?")[0], body)
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the name that http.server looks for

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is written."""

    return Answers


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    standing = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers_of(standing))
    standing.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", standing.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # tests of loaders may have said otherwise
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield standing
    server.shutdown()
    server.server_close()


def test_pushed_datasets_load_as_they_were(result: Result, hub: Hub, tmp_path: Path) -> None:
    address = result.push_to_hub("me/set", private=True, token=CANARY, license="mit", commit_message="Three leaves")
    assert address == f"{hub.endpoint}/datasets/me/set"
    assert [(made["name"], made["organization"], made["type"]) for made in hub.created] == [("set", "me", "dataset")]
    assert hub.created[0].get("visibility", hub.created[0].get("private")) in ("private", True)
    assert [commit["summary"] for commit in hub.commits] == ["Three leaves"]
    assert hub.authorizations == {f"Bearer {CANARY}"}
    parts = [f"data/{leaf}/part-00000.parquet" for leaf in ("ask", "odd")]
    assert sorted(hub.files) == sorted([*parts, "README.md", "pipeline.yaml"])
    assert hub.files["README.md"].decode() == card(result, "me/set", "mit")
    assert not any(CANARY.encode() in content for content in hub.files.values())
    hub.write_to(tmp_path / "set")
    for leaf in ("ask", "odd"):
        loaded = datasets.load_dataset(str(tmp_path / "set"), leaf, split="train")
        assert loaded.to_list() == result[leaf].to_arrow().to_pylist()


def test_a_single_leaf_is_the_default(single: Result, hub: Hub, tmp_path: Path) -> None:
    single.push_to_hub("me/set", token=CANARY)
    assert "private" not in (hub.created[0].get("visibility"), hub.created[0].get("private"))
    hub.write_to(tmp_path / "set")
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train")
    assert loaded.to_list() == single["ask"].to_arrow().to_pylist()


def test_saved_datasets_can_be_pushed(single: Result, hub: Hub, tmp_path: Path) -> None:
    single.save_to_disk(tmp_path / "saved")
    Result.load_from_disk(tmp_path / "saved").push_to_hub("me/set", token=CANARY)
    hub.write_to(tmp_path / "set")
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train")
    assert loaded.to_list() == single["ask"].to_arrow().to_pylist()


class Plotting(Step):
    """Saves a picture of what it was given."""

    def process(self, inputs: StepInput) -> Any:
        def draw(folder: Path) -> None:
            (folder / "plots").mkdir()
            (folder / "plots" / "plot.svg").write_text(f"<svg>{len(inputs)}</svg>")

        self.save_artifact("plot", draw, metadata={"rows": len(inputs)})
        yield inputs


def test_artifacts_are_in_the_folder_the_card_and_the_push(hub: Hub, tmp_path: Path) -> None:
    with Pipeline("plotted") as pipeline:
        LoadDataFromDicts([{"n": 1}, {"n": 2}]) >> Plotting("plotting")
    result = pipeline.run(tmp_path / "out", engine="local")
    result.save_to_disk(tmp_path / "saved")
    loaded = Result.load_from_disk(tmp_path / "saved")
    for one in (result, loaded):
        [artifact] = one.artifacts["plotting"].values()
        assert artifact.path == one.artifacts_path / "plotting" / "plot"
        assert [file.read_text() for file in artifact.files] == ["<svg>2</svg>"]
    hub.files = {"artifacts/plotting/old/old.svg": b"old", "artifacts/others/x.svg": b"x"}
    loaded.push_to_hub("me/set", token=CANARY)
    pushed = {name: content.decode() for name, content in hub.files.items() if name.startswith("artifacts/")}
    assert pushed.pop("artifacts/others/x.svg") == "x"
    assert json.loads(pushed.pop("artifacts/plotting/plot/metadata.json")) == {"rows": 2}
    assert pushed == {"artifacts/plotting/plot/plots/plot.svg": "<svg>2</svg>"}
    assert '| plotting | plot | 1 | {"rows":2} |' in hub.files["README.md"].decode()


def test_parts_of_an_earlier_push_go_and_other_files_stay(single: Result, hub: Hub) -> None:
    stale, others = "data/ask/part-00001.parquet", ["data/ask/notes.txt", "data/other/part-00001.parquet", "README.md"]
    hub.files = {name: b"old" for name in [stale, *others]}
    single.push_to_hub("me/set", token=CANARY, generate_card=False)
    assert sorted(hub.files) == sorted([*others, "data/ask/part-00000.parquet", "pipeline.yaml"])
    assert hub.files["README.md"] == b"old"


@pytest.mark.parametrize(
    ("refuses", "kind", "says"),
    [
        ((401, f"bad token {CANARY}"), InfrastructureError, "the hub refuses to write it (HTTP 401); log in with"),
        ((403, f"bad token {CANARY}"), InfrastructureError, "the hub refuses to write it (HTTP 403); log in with"),
        ((400, f"wrong: {CANARY}, {CANARY}"), SpecError, "is not accepted (HTTP 400): wrong: ***, ***"),
        ((500, f"broken by {CANARY}"), InfrastructureError, "the hub answered HTTP 500; nothing was committed"),
    ],
    ids=["401", "403", "400", "500"],
)
def test_what_the_hub_refuses_is_said_without_the_token(
    refuses: tuple[int, str], kind: type[RaypipeError], says: str, single: Result, hub: Hub
) -> None:
    hub.refuses = refuses
    error = refused(kind, lambda: single.push_to_hub("me/set", token=CANARY))
    assert str(error).startswith("dataset 'me/set': ")
    assert says in str(error)


def test_nothing_private_is_pushed_where_all_can_read(single: Result, hub: Hub) -> None:
    hub.is_private = False
    error = refused(SpecError, lambda: single.push_to_hub("me/set", private=True, token=CANARY))
    assert str(error).startswith("dataset 'me/set': is there already and is public; make it private")
    assert not hub.files


def test_a_leaf_that_has_no_rows_any_more_is_emptied(result: Result, hub: Hub) -> None:
    hub.files = {"data/none/part-00000.parquet": b"old"}
    result.push_to_hub("me/set", token=CANARY)
    assert "data/none/part-00000.parquet" not in hub.files


def test_a_name_that_is_none_is_refused(single: Result, hub: Hub) -> None:
    error = refused(SpecError, lambda: single.push_to_hub("no/such/name", token=CANARY))
    assert "write 'user/name'" in str(error)
    assert not hub.created


def test_a_hub_that_is_not_there_is_said(single: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused(InfrastructureError, lambda: single.push_to_hub("me/set", token=CANARY))
    assert str(error).startswith("the hub at http://127.0.0.1:9 cannot be reached (")


def refused(kind: type[RaypipeError], ask: Callable[[], object]) -> RaypipeError:
    """The error of `ask`, in which no token is."""
    with pytest.raises(kind) as caught:
        ask()
    error = caught.value
    said = [str(error), repr(error), repr(vars(error)), repr(error.__cause__), repr(error.__context__)]
    assert all(CANARY not in part for part in [*said, repr(Upload("me/set", token=CANARY))])
    return error


def test_without_huggingface_hub_it_says_what_to_install(single: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SpecError, match=r"package 'huggingface_hub': is not installed; pip install 'raypipe\[hub\]'"):
        single.push_to_hub("me/set")


def test_the_program_goes_along_if_asked_for(
    hub: Hub, single: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text("print('pushed')\n")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(program), raising=False)
    single.push_to_hub("me/set", include_script=True)
    assert hub.files["pipeline.py"] == program.read_bytes()
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None)
    with pytest.raises(SpecError, match="no Python file is being run"):
        single.push_to_hub("me/set", include_script=True)


def test_options_of_a_distiset_that_there_are_not_say_what_to_do_instead(single: Result, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"save_to_disk: option 'num_shards': .* write result\[leaf\]") as error:
        single.save_to_disk(tmp_path / "saved", num_shards=3, save_card=False)
    assert "option 'save_card': card and pipeline are always saved" in str(error.value)
    with pytest.raises(SpecError, match="push_to_hub: has no option 'licence'"):
        single.push_to_hub("me/set", licence="mit")  # pyright: ignore
    with pytest.raises(SpecError, match="cast_column"):
        single.transform_columns_to_image("picture")
