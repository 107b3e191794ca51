"""`farthing serve` as a process: its address, its configuration, signals, and what it leaves in the ledger."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest

from farthing.errors import ModelNotFound
from farthing.ledger import open_reader
from farthing.models.hub import find_model

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
COMMAND = [sys.executable, "-m", "farthing", "serve"]


def environment(folder):
    return {**os.environ, "XDG_DATA_HOME": str(folder / "data"), "PYTHONPATH": str(ROOT)}


def config(folder, text=""):
    path = folder / "farthing.toml"
    path.write_text(
        f'[ledger]\nurl = "sqlite:///{folder}/ledger.db"\n[[upstream]]\nname = "play"\n'
        f'kind = "tests.server.play"\n{text}'
    )
    return ["--config", str(path), "--port", "0"]


@contextmanager
def running(folder, *options):
    """The process and its address."""
    process = subprocess.Popen(
        [*COMMAND, *options], stderr=subprocess.PIPE, text=True, env=environment(folder), cwd=folder
    )
    try:
        found = None
        while found is None:
            said = process.stderr.readline()
            assert said, "it ended without an address"
            found = re.search(r"http://[^/ ]+", said)
        yield process, found[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ask(text, **more):
    return {"model": "play", "messages": [{"role": "user", "content": text}], **more}


def statuses(folder):
    with open_reader(f"sqlite:///{folder}/ledger.db") as reader:
        return [row.status for row in reader.rows(0, 2**62)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(tmp_path, number):
    with running(tmp_path, *config(tmp_path)) as (process, url):
        with httpx2.stream("POST", url + CHAT, json=ask("say a sleep0.6 b", stream=True)) as stream:
            lines = stream.iter_lines()
            assert "assistant" in next(lines)
            process.send_signal(number)
            refused = until_refused(url)
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert any('"content":"b"' in line for line in rest)
        assert process.wait(10) == 0
        assert "Traceback" not in process.stderr.read()
    assert statuses(tmp_path)[0] == "ok"


def until_refused(url):
    for _ in range(100):
        answer = httpx2.post(url + CHAT, json=ask("say x"))
        if answer.status_code == 503:
            return answer
        time.sleep(0.01)
    pytest.fail("not draining")


def test_a_second_signal_ends_what_runs(tmp_path):
    with running(tmp_path, *config(tmp_path)) as (process, url):
        with httpx2.stream("POST", url + CHAT, json=ask("say a wait b", stream=True)) as stream:
            lines = stream.iter_lines()
            assert "assistant" in next(lines)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            rest = "".join(lines)
        assert "server_draining" in rest
        assert "[DONE]" not in rest
        assert process.wait(10) == 0
    assert statuses(tmp_path) == ["aborted"]


def test_a_signal_while_models_are_loaded_ends_it_at_once(tmp_path):
    """Without a handler the first process of a container would not notice it at all."""
    options = config(tmp_path)
    (tmp_path / "farthing.toml").write_text((tmp_path / "farthing.toml").read_text().replace("play", "slow_start"))
    with subprocess.Popen(
        [*COMMAND, *options], stderr=subprocess.PIPE, text=True, env=environment(tmp_path), cwd=tmp_path
    ) as process:
        try:
            assert process.stderr.readline() == "loading\n"
            process.terminate()
            assert process.wait(10) == 0
            assert process.stderr.read() == "closed\n"
        finally:
            process.kill()


def test_what_does_not_end_in_time_is_ended(tmp_path):
    options = config(tmp_path, "[server]\ndrain_s = 0.2\n")
    with running(tmp_path, *options) as (process, url):
        thread = threading.Thread(target=httpx2.post, args=(url + CHAT,), kwargs={"json": ask("hang"), "timeout": 20})
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        thread.join()
    assert statuses(tmp_path) == ["aborted"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config", "absent.toml"], "absent.toml: cannot be read"),
        (["--host", "0.0.0.0", "--port", "0"], "require_keys is off"),
        (["--model", "no-such-model", "--port", "0"], "no-such-model"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(tmp_path, options, said):
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, env=environment(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_json_gives_the_address(tmp_path):
    command = [*COMMAND, *config(tmp_path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(tmp_path), cwd=tmp_path)
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        found = json.loads("".join(lines))
        assert found["openai_base_url"] == found["url"] + "/v1"
        assert httpx2.get(found["url"] + "/health").json() == {"status": "ok"}
        process.terminate()
        assert process.wait(10) == 0
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_taken_port_says_so(tmp_path):
    with running(tmp_path, *config(tmp_path)) as (_, url):
        options = [*config(tmp_path)[:2], "--port", url.rpartition(":")[2]]
        done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, env=environment(tmp_path))
        assert done.returncode == 1
        assert "in use" in done.stderr


def test_without_configuration_it_serves_the_embedded_model(tmp_path):
    try:
        find_model("smollm2-135m-instruct")
    except ModelNotFound:
        pytest.skip("the embedded model is not pulled: farthing pull smollm2-135m-instruct")
    (tmp_path / "farthing.toml").write_text("[server]\nrequire_keys = true\n")  # not read: nobody named it
    with running(tmp_path, "--port", "0", "--host", "127.0.0.1") as (process, url):
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            [model] = [model.id for model in client.models.list()]
            messages = [{"role": "user", "content": "What is the capital of France?"}]
            given = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24}
            whole = client.chat.completions.create(**given)
            assert whole.choices[0].message.content
            assert whole.usage.cost_usd > 0
            stream = client.chat.completions.create(**given, stream=True)
            assert "".join(c.choices[0].delta.content or "" for c in stream) == whole.choices[0].message.content
        process.terminate()
        assert process.wait(20) == 0
