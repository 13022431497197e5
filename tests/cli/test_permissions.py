"""What a pipeline's file may read, ask and send: nothing beyond its folder and providers unless somebody allows it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.contracts.llm import LLM
from raypipe.errors import InputError, SpecError
from raypipe.models.presets import PRESETS, key_env
from raypipe.models.reach import own_hosts
from raypipe.pipeline import Pipeline
from raypipe.security.permissions import ALLOWED_KEYS, Permissions, host_of
from raypipe.steps import REGISTRY, LoadDataFromFiles, resolve
from tests.cli.conftest import Command
from tests.loopback import serve

SECRET = "not-for-strangers-6c1f"
SEED: dict[str, Any] = {"name": "seed", "type": "LoadDataFromDicts", "data": [{"topic": "sea"}]}
ASK: dict[str, Any] = {"name": "ask", "type": "TextGeneration", "llm": "offline/stand-in", "template": "{{ topic }}"}
WORKFLOW = {
    "tasks": [{"id": "a", "messages": [{"role": "user", "content": "hi"}], "outputs": []}],
    "steps": [{"source": "a", "target": "_end"}],
    "return_value": None,
}


def written(folder: Path, *steps: dict[str, Any], models: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "strange", "models": models or {}, "steps": list(steps) or [SEED, ASK]}))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a secret beside the one that the pipeline lies in."""
    (tmp_path / "secret.md").write_text(SECRET)
    (tmp_path / "secret.json").write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    (tmp_path / "secret.jsonl").write_text(f'{{"topic": "{SECRET}"}}\n')
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "link.md").symlink_to(tmp_path / "secret.md")
    (tmp_path / "own" / "linked").symlink_to(tmp_path)
    (tmp_path / "own" / "rows").mkdir()
    (tmp_path / "own" / "rows" / "rows.jsonl").symlink_to(tmp_path / "secret.jsonl")
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path


def asked(**options: Any) -> list[dict[str, Any]]:
    return [SEED, {name: value for name, value in (ASK | {"template": None} | options).items() if value is not None}]


def loading(kind: str, **options: Any) -> list[dict[str, Any]]:
    return [{"name": "seed", "type": kind, **options}, ASK]


FILES: dict[str, list[dict[str, Any]]] = {
    "template": asked(template_file="../secret.md"),
    "absolute template": asked(template_file="/proc/self/environ"),
    "template behind a link": asked(template_file="link.md"),
    "template behind a linked folder": asked(template_file="linked/secret.md"),
    "template in another base": asked(template_file="secret.md", base_dir=".."),
    "schema": asked(structured_output="../secret.json"),
    "files": loading("LoadDataFromFiles", path="../secret.jsonl"),
    "one of several files": loading("LoadDataFromFiles", path=["rows", "../secret.jsonl"]),
    "files in a folder": loading("LoadDataFromFiles", path=".."),
    "files of a pattern": loading("LoadDataFromFiles", path="../*.jsonl"),
    "files of a pattern that goes up": loading("LoadDataFromFiles", path="*/../../*.jsonl"),
    "a home": loading("LoadDataFromFiles", path="~/secret.jsonl"),
    "a linked file": loading("LoadDataFromFiles", path="rows/rows.jsonl"),
    "a linked file in a folder": loading("LoadDataFromFiles", path="rows"),
    "a linked file of a pattern": loading("LoadDataFromFiles", path="rows/*.jsonl"),
    "data files": loading("LoadDataFromFileSystem", data_files="../secret.jsonl"),
    "linked data files": loading("LoadDataFromFileSystem", data_files=["rows/*"]),
    "a dataset": loading("LoadDataFromDisk", dataset_path="/data"),
    "a dataset in a store": loading("LoadDataFromDisk", dataset_path="s3://bucket/data"),
    "a dataset behind an address": loading("LoadDataFromDisk", dataset_path="https://evil.example/data"),
    "a dataset behind two": loading("LoadDataFromDisk", dataset_path="zip::/data.zip"),
    "a folder for the hub": loading("LoadDataFromHub", repo_id="/data"),
    "a folder above for the hub": loading("LoadDataFromHub", repo_id="../data"),
    "a workflow": [SEED, {"type": "WorkflowStep", "llm": "offline/x", "workflow": "../secret.json", "output": "out"}],
    "an engine's model": asked(template="{{ topic }}", llm={"uri": "vllm//data/model"}),
    "an adapter": asked(template="{{ topic }}", llm={"uri": "vllm/a/b", "lora": "/data/adapter"}),
    "a tokenizer": asked(template="{{ topic }}", llm={"uri": "vllm/a/b", "engine": {"tokenizer": "/data/t"}}),
    "a chat template": asked(template="{{ topic }}", llm={"uri": "vllm/a/b", "options": {"chat_template": "/data/t"}}),
}


@pytest.mark.parametrize("steps", FILES.values(), ids=FILES)
def test_a_file_reads_only_below_its_own_folder(home: Path, steps: list[dict[str, Any]]) -> None:
    with pytest.raises(SpecError, match="--allow-files") as caught:
        Pipeline.from_file(written(home / "own", *steps)).graph()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", ["LoadDataFromHub", "LoadDataFromDisk"])
@pytest.mark.parametrize("way", ["a link", "a readme", "a note of its files"])
def test_a_folder_of_a_dataset_leads_nowhere_else(home: Path, kind: str, way: str) -> None:
    folder = home / "own" / "data"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"topic": "sea"}\n')
    option = {"LoadDataFromHub": "repo_id", "LoadDataFromDisk": "dataset_path"}[kind]
    steps = loading(kind, **{option: "data"})
    Pipeline.from_file(written(home / "own", *steps))
    if way == "a link":
        (folder / "more.jsonl").symlink_to(home / "secret.jsonl")
    elif way == "a readme":
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_files: ../../*.jsonl\n---\n")
    else:
        (folder / "state.json").write_text('{"_data_files": [{"filename": "../../secret.arrow"}]}')
    with pytest.raises(SpecError, match=r"--allow-files|which files are read|not in its folder"):
        Pipeline.from_file(written(home / "own", *steps))


STATE = '{"_data_files": [{"filename": "NAME"}]}'
NOTES = {
    "a split of another folder": ("dataset_dict.json", '{"splits": ["train", "../../secret"]}'),
    "a split by its whole path": ("dataset_dict.json", '{"splits": ["/secret"]}'),
    "escaped": ("state.json", STATE.replace("NAME", "..\\u002f..\\u002fsecret.arrow")),
    "an escaped key": ("state.json", STATE.replace("filename", "filen\\u0061me").replace("NAME", "../x.arrow")),
    "far behind": ("state.json", " " * (1 << 20) + STATE.replace("NAME", "../../secret.arrow")),
    "no json": ("state.json", STATE.replace("NAME", "../../secret.arrow") + "x"),
    "a quoted key": ("README.md", '---\nconfigs:\n- {config_name: x, "data_files": "../../secret.jsonl"}\n---\n'),
    "an escaped key of yaml": ("README.md", '---\nconfigs:\n- {config_name: x, "data_\\x66iles": "../s"}\n---\n'),
    "a key that is asked for": ("README.md", "---\nconfigs:\n- config_name: x\n  ? data_files\n  : ../s\n---\n"),
    "yaml beside it": (".huggingface.yaml", 'configs:\n- {config_name: x, "data_dir": "/"}\n'),
}


@pytest.mark.parametrize("kind", ["LoadDataFromHub", "LoadDataFromDisk"])
@pytest.mark.parametrize("way", list(NOTES))
def test_notes_of_a_dataset_are_read_as_its_library_reads_them(home: Path, kind: str, way: str) -> None:
    folder = home / "own" / "data"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"topic": "sea"}\n')
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (folder / "state.json").write_text(STATE.replace("NAME", "data-00000-of-00001.arrow"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nSee data_files: none.\n")
    option = {"LoadDataFromHub": "repo_id", "LoadDataFromDisk": "dataset_path"}[kind]
    steps = loading(kind, **{option: "./data"})
    Pipeline.from_file(written(home / "own", *steps))
    name, text = NOTES[way]
    (folder / name).write_text(text)
    with pytest.raises(SpecError, match=r"which files are read|not in its folder|too long|cannot be read"):
        Pipeline.from_file(written(home / "own", *steps))


def test_a_config_of_a_distiset_is_a_folder_in_it(home: Path) -> None:
    (home / "own" / "data").mkdir()
    for config in ("../../secret", "..", "/secret", "a/../../b"):
        steps = loading("LoadDataFromDisk", dataset_path="data", is_distiset=True, config=config)
        with pytest.raises(SpecError, match="is not a folder of the distiset"):
            Pipeline.from_file(written(home / "own", *steps))


def test_a_dataset_of_the_hub_is_made_of_its_own_files() -> None:
    from raypipe.steps.sources.hub_datasets import DatasetLocation, check_files

    check_files(DatasetLocation("owner/name"), ["hf://datasets/owner/name@0123abc/data/train.parquet"])
    for file in ("/home/user/secret.csv", "https://elsewhere.example/x.csv", "hf://datasets/owner/other@0/x.csv"):
        with pytest.raises(InputError, match="which is not one of its own files"):
            check_files(DatasetLocation("owner/name"), [file])


@pytest.mark.parametrize("kind", ["template", "files", "a linked file in a folder", "linked data files"])
def test_a_folder_that_is_allowed_is_read(home: Path, kind: str) -> None:
    pipeline = Pipeline.from_file(written(home / "own", *FILES[kind]), allow_files=[home])
    assert len(pipeline.dry_run()["ask"]) == 1


@pytest.mark.parametrize("kind", [str, Path])
def test_what_is_allowed_is_a_list(home: Path, kind: type[Any]) -> None:
    path = written(home / "own", *FILES["template"])
    with pytest.raises(SpecError, match=r"option 'allow_files': is a list, got '.*'; write allow_files=\['"):
        Pipeline.from_file(path, allow_files=kind(home / "none"))
    with pytest.raises(SpecError, match=r"option 'allow_file': is unknown \(did you mean 'allow_files'\?\)"):
        Pipeline.from_file(path, **{"allow_file": [home]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words", [["validate"], ["plan"], ["info"], ["dry-run"], ["draw"], ["run", "--engine", "local"]]
)
def test_every_command_asks(command: Command, home: Path, words: list[str]) -> None:
    path = written(home / "own", *FILES["files"])
    refused = command(words[0], path, *words[1:])
    assert refused.exit_code == 1
    assert "--allow-files" in refused.stderr and SECRET not in refused.output
    (home / "out").mkdir(exist_ok=True)
    assert command(words[0], path, *words[1:], "--allow-files", home).exit_code in (0, 1)


def test_what_stands_on_the_command_line_may_name_anything(command: Command, home: Path) -> None:
    path = written(home / "own", *FILES["data files"])
    secret = home / "secret.jsonl"
    assert "1 rows" not in command("validate", path).output
    for words in (["--input", secret], ["--set", f"seed.data_files={secret}"]):
        result = command("dry-run", path, *words)
        assert result.exit_code == 0, result.output
    other = written(home / "own", *asked(template="x"))
    result = command("dry-run", other, "--set", f"ask.template_file={home / 'secret.md'}", "--set", "ask.template=")
    assert result.exit_code == 0, result.output


def test_a_program_says_what_it_likes(home: Path) -> None:
    (home / "own" / "spec.yaml").write_text("")
    assert len(LoadDataFromFiles("../secret.jsonl").units()) == 1
    loaded = Pipeline.from_file(written(home / "own", *loading("LoadDataFromFiles", path="spec.yaml")))
    changed = loaded.with_parameters({"seed": {"path": "../secret.jsonl"}})
    assert len(changed.dry_run()["ask"]) == 1
    (home / "own" / "inner").mkdir()
    (home / "own" / "inner" / "a.jsonl").write_text("{}\n")
    other = Pipeline.from_file(written(home / "own", *loading("LoadDataFromFiles", path="inner")))
    changed = other.with_parameters({"seed": {"num_examples": 1}})
    (home / "own" / "inner" / "b.jsonl").symlink_to(home / "secret.jsonl")
    with pytest.raises(SpecError, match="--allow-files"):  # what the file said is still what the file said
        changed.graph()


def test_every_option_that_names_a_file_is_known() -> None:
    """One that is new has to be refused by what `FILES` holds before it stands here."""
    words = ("path", "file", "dir", "repo", "folder", "url", "address", "location")
    found = {
        f"{kind}.{name}"
        for kind in REGISTRY
        for name in resolve(kind).model_fields
        if any(word in name.lower() for word in words)
    }
    assert found == {
        "LoadDataFromDisk.dataset_path",
        "LoadDataFromFileSystem.data_files",
        "LoadDataFromFileSystem.filetype",
        "LoadDataFromFiles.path",
        "LoadDataFromHub.repo_id",
        *(f"{kind}.{name}" for kind in asking() for name in ("template_file", "base_dir")),
        "WorkflowStep.base_dir",
    }


def asking() -> list[str]:
    from raypipe.steps import TextGeneration

    return [kind for kind in REGISTRY if issubclass(resolve(kind), TextGeneration)]


# From a URL.


Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A folder that is served, and its address."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler

    (tmp_path / "site").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path / "site"
        server.shutdown()


@pytest.mark.parametrize("steps", [*FILES.values(), loading("LoadDataFromFiles", path="spec.yaml")])
def test_a_file_from_a_url_reads_none(site: tuple[str, Path], home: Path, steps: list[dict[str, Any]]) -> None:
    address, folder = site
    written(folder, *steps)
    with pytest.raises(SpecError, match=r"--allow-(files|host)"):
        Pipeline.from_file(f"{address}/spec.yaml").graph()


HOSTS: dict[str, list[dict[str, Any]]] = {
    "a model": asked(template="x", llm={"uri": "ollama/x", "base_url": "https://evil.example/v1"}),
    "a model here": asked(template="x", llm={"uri": "ollama/x", "base_url": "http://127.0.0.1:8265/v1"}),
    "the hub": loading("LoadDataFromHub", repo_id="evil/rows"),
    "an engine": asked(template="x", llm="vllm/evil/model"),
    "a search": [
        SEED,
        {
            "type": "WorkflowStep",
            "llm": "offline/x",
            "output": "out",
            "workflow": WORKFLOW | {"search_service": {"base_url": "https://evil.example"}},
        },
    ],
    "a tool": [
        SEED,
        {
            "type": "WorkflowStep",
            "llm": "offline/x",
            "output": "out",
            "workflow": WORKFLOW
            | {
                "custom_tools": [
                    {
                        "class": "raypipe.workflows.http_tool:HttpRequestTool",
                        "name": "t",
                        "url": "https://evil.example/x",
                    }
                ]
            },
        },
    ],
}


@pytest.mark.parametrize("steps", HOSTS.values(), ids=HOSTS)
def test_a_file_from_a_url_names_no_host(site: tuple[str, Path], steps: list[dict[str, Any]]) -> None:
    address, folder = site
    written(folder, *steps)
    with pytest.raises(SpecError, match="--allow-host"):
        Pipeline.from_file(f"{address}/spec.yaml")
    hosts = ["evil.example", "huggingface.co", "127.0.0.1"]
    Pipeline.from_file(f"{address}/spec.yaml", allow_hosts=hosts, allow_keys=["SERPER_API_KEY=evil.example"])


# Keys.


def model(**options: Any) -> list[dict[str, Any]]:
    return asked(template="{{ topic }}", llm={"uri": "openai/x", "max_tries": 1} | options)


STOLEN: dict[str, dict[str, Any]] = {
    "any variable": {"base_url": "https://evil.example", "api_key_env": "AWS_SECRET_ACCESS_KEY"},
    "any variable to a provider": {"api_key_env": "AWS_SECRET_ACCESS_KEY"},
    "a provider's to another host": {"base_url": "https://evil.example/v1"},
    "a provider's to its namesake": {"base_url": "https://api.openai.com.evil.example/v1"},
    "a provider's by its name": {"base_url": "https://evil.example/v1", "api_key_env": "OPENAI_API_KEY"},
    "one provider's to another": {"uri": "openai/x", "api_key_env": "ANTHROPIC_API_KEY"},
    "behind what looks like a provider": {"base_url": "https://api.openai.com@evil.example/v1"},
    "to what looks like here": {"base_url": "http://127.0.0.1.evil.example", "api_key_env": "AWS_SECRET_ACCESS_KEY"},
}


@pytest.mark.parametrize("options", STOLEN.values(), ids=STOLEN)
def test_a_key_goes_only_to_its_providers_hosts(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    for steps in (model(**options), [SEED, {"type": "EmbeddingGeneration", "embeddings": model(**options)[1]["llm"]}]):
        path = written(tmp_path / "own", *steps)
        with pytest.raises(SpecError, match="--allow-key"):
            Pipeline.from_file(path)
    pool = [SEED, ASK | {"llm": ["one", "offline/two"]}]
    path = written(tmp_path / "own", *pool, models={"one": {"uri": "openai/x"} | options})
    refused = command("validate", path)
    assert refused.exit_code == 1
    assert "--allow-key" in refused.stderr
    assert SECRET not in refused.output
    host = host_of(options.get("base_url", "https://api.openai.com"))
    pair = f"{options.get('api_key_env', 'OPENAI_API_KEY')}={host}"
    Pipeline.from_file(path, allow_keys=[pair])
    monkeypatch.setenv(ALLOWED_KEYS, f"OTHER=a.example, {pair}")
    Pipeline.from_file(path)


def test_a_key_that_is_not_there_is_not_sent_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    [_, ask] = Pipeline.from_file(written(tmp_path, *model(base_url="http://gpu-1.example:8000/v1"))).steps
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert ask.llm is not None
    assert key_env(ask.llm) is None
    assert key_env(LLM("openai/x", api_key_env="")) is None


def test_the_command_line_and_the_environment_pair_them(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    path = written(tmp_path / "own", *model(base_url="https://gateway.example/v1"))
    base_url = ["--base-url", "https://gateway.example/v1"]
    assert command("validate", path, *base_url).exit_code == 0
    assert command("validate", path, "--allow-key", "OPENAI_API_KEY=gateway.example").exit_code == 0
    assert command("validate", path, "--allow-key", "OPENAI_API_KEY").exit_code == 1
    assert command("validate", path, "--allow-key", "OPENAI_API_KEY=other.example").exit_code == 1
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example/v1")
    assert command("validate", written(tmp_path / "other", *model())).exit_code == 0
    assert command("validate", path).exit_code == 1


def test_this_machine_takes_any_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_GATEWAY_KEY", SECRET)
    with serve(answer=lambda body: "fine") as server:
        path = written(tmp_path, *model(base_url=server.base_url, api_key_env="MY_GATEWAY_KEY"))
        Pipeline.from_file(path).run(tmp_path / "out", engine="local")
        assert server.requests[0].authorization == f"Bearer {SECRET}"


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_providers_key_has_its_hosts(preset: Any) -> None:
    if preset.key_env is None:
        return
    address = preset.base_url.format(host="eu-aiplatform.googleapis.com", project="p", location="l")
    own = own_hosts(preset.key_env)
    Permissions().check_key(preset.key_env, address, own, "here")
    Permissions().check_key(f"{preset.key_env}_TEAM", address, own_hosts(f"{preset.key_env}_TEAM"), "here")
    with pytest.raises(SpecError):
        Permissions().check_key(preset.key_env, "https://evil.example", own, "here")


@pytest.mark.parametrize("headers", ["AWS_SECRET_ACCESS_KEY", "Bearer AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("place", ["headers_env", "params_env"])
def test_a_tool_of_a_file_sends_no_key(tmp_path: Path, place: str, headers: str) -> None:
    tool = {
        "class": "raypipe.workflows.http_tool:HttpRequestTool",
        "name": "t",
        "url": "https://evil.example/x",
        place: {"X-Key": headers},
    }
    step = {"type": "WorkflowStep", "llm": "offline/x", "output": "out"}
    path = written(tmp_path, SEED, step | {"workflow": WORKFLOW | {"custom_tools": [tool]}})
    with pytest.raises(SpecError, match=r"--allow-key AWS_SECRET_ACCESS_KEY=evil\.example"):
        Pipeline.from_file(path)
    Pipeline.from_file(path, allow_keys=["AWS_SECRET_ACCESS_KEY=evil.example"])


@pytest.mark.parametrize(
    "service", [{"base_url": "https://evil.example"}, {"api_key_env": "AWS_SECRET_ACCESS_KEY"}], ids=str
)
def test_a_search_of_a_file_sends_no_key(tmp_path: Path, service: dict[str, str]) -> None:
    step = {"type": "WorkflowStep", "llm": "offline/x", "output": "out"}
    path = written(tmp_path, SEED, step | {"workflow": WORKFLOW | {"search_service": service}})
    with pytest.raises(SpecError, match="--allow-key"):
        Pipeline.from_file(path)


@pytest.mark.parametrize(
    "step",
    [
        {"type": "KeepColumns", "columns": ["topic"], "broadcast": 10**12},
        {"type": "MinHashDedup", "num_perm": 10**9},
        {"type": "TextGeneration", "llm": "offline/x", "template": "x", "num_generations": 10**9},
        {"type": "EvolInstruct", "llm": "offline/x", "num_generations": 10**9},
    ],
    ids=lambda step: step["type"],
)
def test_a_count_of_a_file_is_bounded(home: Path, step: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="less than or equal to"):
        Pipeline.from_file(written(home / "own", SEED, step))
