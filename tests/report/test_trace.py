"""Traces are read as they are published, and what is wrong in one is named with its line."""

import gzip

import pytest

from farthing.errors import InvalidRequest
from farthing.report.trace import read_trace

MOONCAKE = '{"timestamp": 0, "input_length": 1100, "output_length": 50, "hash_ids": [70, 7, 8]}\n'
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"


def read(tmp_path, content):
    path = tmp_path / "trace"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_trace(path)


def test_mooncake(tmp_path):
    later = '{"timestamp": 1500, "input_length": 1024, "output_length": 0, "hash_ids": [70, 9], "type": "chat"}'
    trace = read(tmp_path, later + "\n\n" + MOONCAKE)
    assert trace.format == "mooncake"
    assert [request.timestamp_s for request in trace.requests] == [0, 1.5]  # by time, not by line
    assert [request.blocks.tolist() for request in trace.requests] == [[0, 2, 3], [0, 1]]
    assert (trace.num_blocks, trace.input_tokens, trace.output_tokens) == (4, 2124, 50)


def test_ids_may_be_of_any_size_and_leave_out_the_incomplete_one(tmp_path):
    line = '{"timestamp": 0.5, "input_length": 1100, "output_length": 1, "hash_ids": [-3, 123456789012345678901234]}'
    [request] = read(tmp_path, line).requests
    assert request.blocks.tolist() == [0, 1]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_azure(tmp_path, newline):
    text = "\ufeff" + AZURE + "2023-11-16 18:17:03.0000000,1,0\n" + "2024-05-10 00:00:00.009930+00:00,5,6\n"
    trace = read(tmp_path, text.replace("\n", newline))
    assert trace.format == "azure"
    assert [(request.input_length, request.output_length) for request in trace.requests] == [(1, 0), (4808, 10), (5, 6)]
    assert trace.requests[1].timestamp_s - trace.requests[0].timestamp_s == pytest.approx(0.97996)
    assert trace.num_blocks == 0


def test_columns_are_found_by_name(tmp_path):
    [request] = read(tmp_path, "GeneratedTokens, ContextTokens,Model,TIMESTAMP\n3,40,x,2023-11-16\n").requests
    assert (request.input_length, request.output_length) == (40, 3)


@pytest.mark.parametrize("text", [MOONCAKE, AZURE])
def test_gzipped(tmp_path, text):
    assert read(tmp_path, gzip.compress(text.encode())).requests[0].output_length in (10, 50)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no request in it"),
        ("\n \n", "no request in it"),
        ("hello\n", "line 1: neither a JSON object nor a header"),
        (MOONCAKE + '{"timestamp": 1, "input', "line 2: not JSON"),
        (MOONCAKE + "\n[1]\n", "line 3: not a JSON object"),
        (MOONCAKE + MOONCAKE.replace("input_length", "inputs"), "line 2: no field 'input_length'"),
        (MOONCAKE.replace("1100", '"1100"'), "line 1: input_length is '1100'; allowed: an integer"),
        (MOONCAKE.replace("1100", "-1"), "line 1: input_length is '-1'"),
        (MOONCAKE.replace("1100", "true"), "line 1: input_length is 'True'"),
        (MOONCAKE.replace("50,", "1e3,"), "line 1: output_length is '1000.0'"),
        (MOONCAKE.replace(" 0,", " NaN,"), "line 1: timestamp is 'nan'"),
        (MOONCAKE.replace("8]", '"8"]'), "line 1: hash_ids is"),
        (MOONCAKE.replace("1100", "99999999999"), "line 1: input_length is '99999999999'"),
        (MOONCAKE.replace("1100", "500"), "line 1: 3 hash_ids; an input_length of 500 is 1 (or 0, without"),
        (MOONCAKE.replace("1100", "2048"), "line 1: 3 hash_ids; an input_length of 2048 is 4 of 512 tokens"),
        (MOONCAKE.encode() + b"\xff\n", "line 2: not UTF-8"),
        (b"\x1f\x8b\x08\x00rubbish", "begins like a gzip file and is damaged"),
        (gzip.compress(MOONCAKE.encode() * 50, mtime=0)[:-9], "begins like a gzip file and is damaged"),
        ("TIMESTAMP,ContextTokens\n", "line 1: no column GeneratedTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "a header and no request below it"),
        (AZURE + "yesterday,1,2\n", "line 3: TIMESTAMP is 'yesterday'"),
        (AZURE + "2023-11-16,1.5,2\n", "line 3: ContextTokens is '1.5'"),
        (AZURE + "2023-11-16,1,-2\n", "line 3: GeneratedTokens is '-2'"),
        (AZURE + "2023-11-16,1\n", "line 3: 2 values; the header names 3 columns"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, content, expected):
    with pytest.raises(InvalidRequest) as error:
        read(tmp_path, content)
    assert expected in str(error.value)
    assert str(tmp_path / "trace") in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_trace(tmp_path / "none")
