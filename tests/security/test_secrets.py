"""A secret is written and said nowhere, whichever way it came in: `WAYS` lists them.

Each way has a canary of its own. What is searched: every file of the run folder and of the call log (Parquet and the
compressed segments unpacked), the manifest, pipeline.yaml, standard output and error, Ray's logs, the texts of
pipeline, plan, models and exceptions, and what a job is told.
"""

from __future__ import annotations

import json
import shlex
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from raypipe.cli.commands import app
from raypipe.cli.job_package import pack
from raypipe.cli.jobs import _entrypoint
from raypipe.cli.specs import Wanted, pipeline_of
from raypipe.contracts.llm import LLM
from raypipe.errors import RaypipeError
from raypipe.models import OpenAILLM, open_model
from raypipe.pipeline import Pipeline
from raypipe.security.secrets import REDACTED, find_secrets, is_secret_name, redact, redact_address, remove_secrets
from raypipe.steps import LoadDataFromDicts, LoadDataFromHub, TextGeneration
from raypipe.storage.paths import parse_path
from raypipe.workflows import HttpRequestTool, Operator, WorkflowBuilder, WorkflowStep, Write
from tests.keys import CANARY, KEY_OF_WORKERS
from tests.loopback import Loopback, serve
from tests.workflows.web import Answer, Arrived, Web, serve_web

ROWS = [{"topic": topic} for topic in ("sea", "sky", "sun")]
DISGUISED = (
    f"HTTPS://u:{CANARY}@a.example/x",
    f" https://u:{CANARY}@a.example/my file.csv",
    f"https://u:half/{CANARY}@a.example/x",
    f"zip://x.csv::https://u:{CANARY}@a.example/x.zip",
    f"simplecache::https://u:{CANARY}@a.example/x",
    f"https://a.example/x?next=https://u:{CANARY}@b.example",
    f"https://a.example/x?next=https%3A%2F%2Fu%3A{CANARY}%40b.example",
    f"https://a.example/https://u:{CANARY}@b.example",
    f"https://a.example/x;token={CANARY}",
    f"https://a.example/x?n=1;token={CANARY}",
)
"""Addresses with a key in them that a look at scheme, host and query alone does not see."""


@dataclass
class Stage:
    """Where a way is played, and what was said on it."""

    folder: Path
    server: Loopback
    web: Web
    monkeypatch: pytest.MonkeyPatch
    engine: str = "local"
    key: str = "OPENAI_API_KEY"
    """The variable with the key; workers of Ray have what was set when Ray was started."""
    said: list[str] = field(default_factory=list[str])

    def play(self, make: Callable[[], Any]) -> Any:
        """What `make` gives, its text kept; an error's text instead."""
        try:
            made = make()
        except (RaypipeError, ValueError, TypeError) as error:
            self.said += [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
            return None
        self.said += [repr(made), str(made)]
        return made

    def run(self, pipeline: Pipeline) -> None:
        self.said += [
            repr(pipeline),
            repr(pipeline.steps),
            pipeline.to_yaml(),
            json.dumps(pipeline.dump(), default=str),
        ]
        self.play(pipeline.plan)
        self.play(lambda: pipeline.plan().describe())
        self.play(lambda: pipeline.dry_run())
        options: Any = {"engine": self.engine, "max_failed_rows": 99}
        self.play(lambda: pipeline.run(self.folder / "out", **options))

    def command(self, *words: object) -> None:
        result = CliRunner().invoke(app, [str(word) for word in words])
        self.said += [result.stdout, result.stderr, repr(result.exception)]

    def asked(self, llm: LLM | None, **options: Any) -> Pipeline:
        with Pipeline("secret") as pipeline:
            LoadDataFromDicts(ROWS, name="seed") >> TextGeneration("ask", llm=llm, template="{{ topic }}", **options)
        return pipeline

    def spec(self, **llm: Any) -> Path:
        model = {"uri": "openai/x", "base_url": self.server.base_url, "max_tries": 1} | llm
        plain = {
            "name": "secret",
            "models": {"writer": model},
            "steps": [
                {"name": "seed", "type": "LoadDataFromDicts", "data": ROWS},
                {"name": "ask", "type": "TextGeneration", "llm": "writer", "template": "{{ topic }}"},
            ],
        }
        path = self.folder / "spec.yaml"
        path.write_text(yaml.safe_dump(plain))
        return path

    def workflow(self, **changes: Any) -> Pipeline:
        """A model that calls a tool, in a workflow."""
        tool = self.play(lambda: HttpRequestTool(name="look", time_limit_s=10, **changes))
        builder = WorkflowBuilder(topic=None)
        builder.add_custom_tool([tool] if tool else [])
        builder.generative_step("{{topic}}", Operator.FUNCTION_CALLING, id="a", outputs=[Write.new("found")])
        made = self.play(lambda: builder.set_return_value("found").build())
        if made is not None:
            self.said += [json.dumps(made.to_dict())]
            self.play(lambda: made.save(self.folder / "workflow.json"))
        with Pipeline("tools") as pipeline:
            llm = LLM("openai/x", base_url=self.server.base_url, max_tries=1)
            LoadDataFromDicts(ROWS, name="seed") >> WorkflowStep("look", workflow=made, llm=llm, output="found")
        return pipeline


def url(stage: Stage, path: str = "/echo") -> str:
    return stage.web.url + path


def key_in_the_environment(stage: Stage) -> None:
    stage.monkeypatch.setenv(stage.key, CANARY)
    llm = LLM("openai/x", base_url=stage.server.base_url, api_key_env=stage.key, max_tries=1)
    stage.play(lambda: open_model(llm))
    stage.run(stage.asked(llm))
    assert any(CANARY in (one.authorization or "") for one in stage.server.requests)


def named_key_in_the_environment(stage: Stage) -> None:
    stage.monkeypatch.setenv("MY_KEY", CANARY)
    stage.run(Pipeline.from_file(stage.spec(api_key_env="MY_KEY")))
    stage.command("run", stage.spec(api_key_env="MY_KEY"), "--engine", stage.engine, "--out", stage.folder / "cli")


def key_in_the_place_of_its_name(stage: Stage) -> None:
    stage.play(lambda: LLM("openai/x", api_key_env=CANARY))
    stage.command("run", stage.spec(api_key_env=CANARY), "--engine", "local")
    stage.play(
        lambda: HttpRequestTool(name="t", url="https://a.example", headers_env={"Authorization": f"Bearer {CANARY}"})
    )
    stage.play(lambda: WorkflowBuilder().set_search(api_key_env=CANARY))


def key_in_python(stage: Stage) -> None:
    llm = OpenAILLM("x", base_url=stage.server.base_url, api_key=CANARY, max_retries=0)
    stage.run(stage.asked(llm))
    assert any(CANARY in (one.authorization or "") for one in stage.server.requests)


def option_that_there_is_not(stage: Stage) -> None:
    stage.play(lambda: LLM("openai/x", api_key=CANARY))
    stage.play(lambda: LLM("openai/x", extra=CANARY, api_key_env=[CANARY]))
    stage.command("validate", stage.spec(api_key=CANARY, extra=[{"api_key": CANARY}]))


def url_of_the_pipeline(stage: Stage) -> None:
    name = Path(stage.folder / "site" / "p.yaml")
    name.parent.mkdir()
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    name.write_text(stage.spec().read_text().replace("openai/x", "offline/x"))
    plain = yaml.safe_load(name.read_text())
    plain["models"]["writer"] = "offline/x"
    name.write_text(yaml.safe_dump(plain))

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    handler = partial(Silent, directory=str(name.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://user:{CANARY}@127.0.0.1:{server.server_port}/p.yaml?sig={CANARY}&x={CANARY}#{CANARY}"
        stage.command("run", address, "--engine", stage.engine, "--out", stage.folder / "out")
        assert (stage.folder / "out" / "manifest.json").is_file()
        stage.command("run", address.replace("p.yaml", "q.yaml"), "--engine", "local")
        stage.command("retry", stage.folder / "out", "--engine", "local")
        server.shutdown()


def address_of_the_input(stage: Stage) -> None:
    for address in (
        f"https://u:{CANARY}@a.example/x.jsonl?token={CANARY}",
        f"s3://{CANARY}:{CANARY}@bucket/x?key={CANARY}",
        *DISGUISED,
    ):
        stage.command("run", stage.spec(), "--input", address, "--engine", "local")
        stage.command("validate", stage.spec(), "--set", f"seed.path={address}")
        for option in ("--out", "--calls"):
            stage.command("run", stage.spec(), option, address, "--engine", "local")
        stage.command("retry", address)
        stage.command("failures", address)
        stage.play(lambda address=address: parse_path(address))
    stage.play(lambda: parse_path(Path(f"s3://{CANARY}:{CANARY}@bucket/x")))


def address_of_the_endpoint(stage: Stage) -> None:
    for address in (f"https://u:{CANARY}@a.example/v1", f"https://a.example/v1?api_key={CANARY}", *DISGUISED):
        llm = LLM("openai/x", base_url=address)
        stage.play(lambda llm=llm: llm)
        stage.run(stage.asked(llm))
        stage.command("validate", stage.spec(base_url=address))
        stage.command("run", stage.spec(), "--base-url", address, "--engine", "local")
        stage.command("run", stage.spec(), "--base-url", f"writer={address}", "--engine", "local")


def fields_of_the_request(stage: Stage) -> None:
    extra = {"api_key": CANARY, "auth": {"token": CANARY}, "hook": f"https://u:{CANARY}@a.example/?sig={CANARY}"}
    llm = LLM("openai/x", base_url=stage.server.base_url, max_tries=1, extra=extra)
    stage.run(stage.asked(llm))


def options_of_the_engine(stage: Stage) -> None:
    for uri in ("vllm/org/x", "vllm-server/org/x"):
        llm = LLM(uri, engine={"hf_token": CANARY, "model_loader_extra_config": {"secret_access_key": CANARY}})
        pipeline = stage.asked(llm)
        stage.said += [repr(llm), repr(pipeline.steps), pipeline.to_yaml(), json.dumps(pipeline.dump())]
        stage.play(lambda pipeline=pipeline: pipeline.plan().describe())
        stage.play(lambda pipeline=pipeline: repr(pipeline.plan()))
        stage.play(pipeline.validate)


def settings_of_the_command_line(stage: Stage) -> None:
    spec = stage.spec()
    model = f"{{uri: openai/x, base_url: '{stage.server.base_url}', max_tries: 1, extra: {{api_key: {CANARY}}}}}"
    words = ["--engine", stage.engine, "--out", stage.folder / "out", "--max-failed-rows", 9]
    stage.command("run", spec, "--set", f"ask.llm={model}", *words)
    assert (stage.folder / "out" / "manifest.json").is_file()
    assert REDACTED in (stage.folder / "out" / "pipeline.yaml").read_text()
    stage.command("retry", stage.folder / "out", "--engine", "local")
    assert REDACTED in stage.said[-2], "what was left out is said, not sent"
    stage.command("run", spec, "--set", f"ask.api_key={CANARY}", "--engine", "local")
    stage.command("run", spec, "--set", f"nobody.api_key={CANARY}", "--engine", "local")
    stage.command("run", spec, "--set", f"ask.llm={model}", "--max-calls", 0, "--engine", "local")


def options_of_a_store(stage: Stage) -> None:
    options = {"key": CANARY, "client_kwargs": {"aws_secret_access_key": CANARY}}
    with Pipeline("stored") as pipeline:
        source = LoadDataFromHub(repo_id=str(stage.folder), storage_options=options)
        source >> TextGeneration("ask", llm=LLM("offline/x"), template="{{ topic }}")
    stage.said += [repr(source), pipeline.to_yaml()]
    stage.play(pipeline.validate)


def address_of_a_tool(stage: Stage) -> None:
    stage.run(stage.workflow(url=f"{url(stage)}?api_key={CANARY}"))
    stage.play(lambda: HttpRequestTool(name="t", url=f"https://u:{CANARY}@a.example"))
    stage.play(lambda: HttpRequestTool(name="t", url=f"ftp://u:{CANARY}@a.example?token={CANARY}"))


def parameters_of_a_tool(stage: Stage) -> None:
    stage.run(stage.workflow(url=url(stage), params={"key": CANARY, "n": 1}))
    pipeline = stage.workflow(url=url(stage), method="POST", body={"auth": {"password": CANARY}})
    stage.folder = stage.folder / "body"
    stage.run(pipeline)
    assert stage.web.arrived
    assert all(CANARY in str(one) for one in stage.web.arrived)


def headers_of_a_tool(stage: Stage) -> None:
    stage.play(lambda: HttpRequestTool(name="t", url=url(stage), headers={"Authorization": f"Bearer {CANARY}"}))
    stage.play(lambda: HttpRequestTool(name="t", url=url(stage), headers={"X-Api-Key": CANARY}))


def variables_of_a_tool(stage: Stage) -> None:
    stage.monkeypatch.setenv("MY_TOKEN", CANARY)
    given = {"headers_env": {"Authorization": "Bearer MY_TOKEN"}, "params_env": {"key": "MY_TOKEN"}}
    stage.run(stage.workflow(url=url(stage), **given))


def service_of_searches(stage: Stage) -> None:
    stage.monkeypatch.setenv("SERPER_API_KEY", CANARY)
    for address in (url(stage, ""), f"https://u:{CANARY}@a.example", f"https://a.example?api_key={CANARY}"):
        builder = WorkflowBuilder(topic=None)
        builder.search_step("{{topic}}", id="s", outputs=[Write.new("found")])
        stage.play(lambda builder=builder, address=address: builder.set_search(base_url=address))
        made = stage.play(lambda builder=builder: builder.set_return_value("found").build())
        if made is None:
            continue
        with Pipeline("searching") as pipeline:
            llm = LLM("openai/x", base_url=stage.server.base_url)
            LoadDataFromDicts(ROWS, name="seed") >> WorkflowStep("look", workflow=made, llm=llm, output="found")
        stage.run(pipeline)


def endpoint_that_repeats_it(stage: Stage) -> None:
    """In its errors, of any form, and in its answers."""
    stage.monkeypatch.setenv(stage.key, CANARY)
    llm = LLM("openai/x", base_url=stage.server.base_url, api_key_env=stage.key, max_tries=1)
    said = f"header 'Authorization: Bearer {CANARY}' and {CANARY!r}"
    for number, shares in enumerate(({}, {400: 1.0}, {401: 1.0}, {500: 1.0})):
        stage.server.behaviour = stage.server.behaviour.__class__(
            answer=lambda body: said, shares=shares, error={"message": "x" * 280 + said, "code": CANARY}
        )
        stage.folder = stage.folder / str(number)
        stage.run(stage.asked(llm))
    spelt = "".join(f"\\u{ord(sign):04x}" for sign in CANARY)  # as JSON may write any letter
    choice = f'{{"message": {{"content": "{spelt}"}}, "finish_reason": "{spelt}"}}'
    stage.server.behaviour = stage.server.behaviour.__class__(
        body=f'{{"choices": [{choice}], "model": "{spelt}", "usage": {{}}}}'.encode()
    )
    stage.folder = stage.folder / "spelt"
    stage.run(stage.asked(llm))


def job_of_a_cluster(stage: Stage) -> None:
    stage.monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    stage.monkeypatch.chdir(stage.folder)
    spec = stage.spec()
    for number, settings in enumerate(([], [f"ask.llm={{uri: openai/x, extra: {{api_key: {CANARY}}}}}"])):
        wanted = Wanted(str(spec), settings=settings)
        (stage.folder / f"packed{number}").mkdir()
        packed = stage.play(lambda w=wanted, n=number: pack(pipeline_of(w), w, None, stage.folder / f"packed{n}"))
        if packed is not None:
            stage.said += [_entrypoint(packed, {}, []), shlex.join(packed.wanted.settings)]


WAYS = [
    key_in_the_environment,
    named_key_in_the_environment,
    key_in_the_place_of_its_name,
    key_in_python,
    option_that_there_is_not,
    url_of_the_pipeline,
    address_of_the_input,
    address_of_the_endpoint,
    fields_of_the_request,
    options_of_the_engine,
    settings_of_the_command_line,
    options_of_a_store,
    address_of_a_tool,
    parameters_of_a_tool,
    headers_of_a_tool,
    variables_of_a_tool,
    service_of_searches,
    endpoint_that_repeats_it,
    job_of_a_cluster,
]
"""How a secret may come in."""


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file's name and content, that of Parquet unpacked as well."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield f"{path} (rows)", repr(pq.read_table(path).to_pylist()) + repr(pq.read_schema(path).metadata)


def echo(request: Arrived) -> Answer:
    """What came, in an answer or in a refusal."""
    said = orjson.dumps([request.method, request.path, request.headers, request.body])
    return (403, said) if request.method == "POST" else (200, said)


def found_in(stage: Stage, folder: Path, *more: str) -> list[str]:
    """Where the canary is; the files that the user wrote are the user's."""
    own = ("spec.yaml",)
    files = [where for where, text in contents(folder) if CANARY in text and not where.endswith(own)]
    return files + [one[:2000] for one in (*stage.said, *more) if CANARY in one]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_secret_is_written_and_said_nowhere(
    way: Callable[[Stage], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "an-ordinary-key")
    monkeypatch.chdir(tmp_path)
    error = {"message": "asked wrongly", "code": "x"}
    with serve(error=error) as server, serve_web(echo) as web:
        stage = Stage(tmp_path, server, web, monkeypatch)
        way(stage)
        assert found_in(stage, tmp_path, *capfd.readouterr(), caplog.text) == []


@pytest.mark.ray
@pytest.mark.parametrize("way", [key_in_the_environment, endpoint_that_repeats_it, variables_of_a_tool])
def test_nor_by_workers_of_ray(
    way: Callable[[Stage], None],
    ray_session: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Ray's own files hold the environment of what it starts, which is the user's; its logs are searched."""
    import ray

    with serve() as server, serve_web(echo) as web:
        stage = Stage(tmp_path, server, web, monkeypatch, engine="ray", key=KEY_OF_WORKERS)
        way(stage)
        assert found_in(stage, tmp_path, *capfd.readouterr()) == []
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert [where for where, text in contents(logs) if CANARY in text] == []


def test_names_of_secrets_are_known() -> None:
    secret = "api_key API-KEY apiKey key token hf_token access_token Authorization password X-Api-Key sig clientSecret"
    plain = "max_tokens tokenizer stop_token_ids prompt_cache_key top_k keyword monkey key_order tokens author design"
    assert [name for name in f"{secret} jwt passphrase".split() if not is_secret_name(name)] == []
    assert [name for name in plain.split() if is_secret_name(name)] == []


def test_addresses_are_shown_without_what_opens_them() -> None:
    assert redact_address("https://a.example/v1?n=1") == "https://a.example/v1?n=1"
    assert (
        redact_address("https://u:p@a.example/v1?n=1&key=x#f")
        == f"https://{REDACTED}@a.example/v1?n=1&key={REDACTED}#{REDACTED}"
    )
    assert redact_address("https://a.example/?n=1", every=True) == f"https://a.example/?n={REDACTED}"
    assert redact_address("topics.jsonl") == "topics.jsonl"
    for address in DISGUISED:
        assert CANARY not in f"{redact_address(address)} {redact(address)}"
        assert any(CANARY in secret for secret in find_secrets(address)), address
    nested = "https://a.example/?u=" * 3000
    assert CANARY not in redact_address(f"{nested}https://u:{CANARY}@b.example")


@pytest.mark.parametrize(
    "text",
    [
        *("http://[::1]:8000/v1", "hf://datasets/o/n@rev/x", "zip://x.csv::https://a.example/x.zip", "s3://b/x"),
        *("https://a.example/{{city}}?q={{day}}&z=", "https://a.example/x;n=1?m=1;k=2", "https://a.example:{{port}}/"),
        *("https://a.example/ says {{ topic }} #1", "ask https://u:p@a.example", "https://a.example/x?u=https://b/"),
    ],
)
def test_what_carries_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert remove_secrets('say "a\\"b&c d" or a%22b%26c%20d', ['a"b&c d']) == f'say "{REDACTED}" or {REDACTED}'
