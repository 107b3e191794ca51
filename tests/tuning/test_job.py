"""What may be asked of a quantization, and which windows of a text it uses."""

from pathlib import Path

import pytest

from farthing.errors import InvalidRequest
from farthing.models import load_model
from farthing.tuning.job import WINDOW, QuantizeJob, check_gguf_format, read_calibration
from tests.models.small import GOLDEN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "q4", "bits": 3.0}, "give one of them"),
        ({"format": "q9"}, "format is 'q9'; allowed: f32"),
        ({"bits": 1.0}, r"--bits is 1; allowed: 1\.75 to 32"),
        ({"bits": float("nan")}, "--bits is nan"),
        ({"method": "magic"}, "method is 'magic'; allowed: rtn"),
        ({"num_tokens": 100}, r"--tokens is 100; allowed: 512"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_what_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        QuantizeJob(**options)  # type: ignore[arg-type]


def test_defaults() -> None:
    job = QuantizeJob()
    assert (job.budget, job.method_with(True), job.method_with(False)) == (4.5, "gptq", "search")
    assert QuantizeJob(bits=3.5).budget == 3.5
    with pytest.raises(InvalidRequest, match="method gptq needs a text"):
        QuantizeJob(method="gptq").method_with(False)
    with pytest.raises(InvalidRequest, match="no type for c4; allowed there: f32"):
        check_gguf_format("c4")
    check_gguf_format("q4_0")


def test_windows_are_apart_and_all_over_the_text(tmp_path: Path) -> None:
    tokenizer = load_model(GOLDEN / "llama").tokenizer
    text = tmp_path / "text"
    text.write_text("".join(f"{i} green bottles hanging on the wall\n" for i in range(3000)))
    ids = tokenizer.encode(text.read_bytes(), add_bos=False)
    all_windows = [tuple(ids[i : i + WINDOW]) for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
    found = read_calibration(str(text), tokenizer, 10_000, QuantizeJob(num_tokens=8 * WINDOW + 5))
    assert (len(found.calibration), len(found.measured), found.num_tokens) == (8, 16, 8 * WINDOW)
    places = [all_windows.index(w) for w in found.calibration + found.measured]
    assert len(set(places)) == 24
    assert places[:8] == sorted(places[:8])
    assert places[7] - places[0] > len(all_windows) / 2
    assert found == read_calibration(str(text), tokenizer, 10_000, QuantizeJob(num_tokens=8 * WINDOW))
    other = read_calibration(str(text), tokenizer, 10_000, QuantizeJob(num_tokens=8 * WINDOW, seed=1))
    assert other != found
    everything = read_calibration(str(text), tokenizer, 10_000, QuantizeJob(num_tokens=1 << 30))
    assert len(everything.calibration) + len(everything.measured) == len(all_windows)
    short = read_calibration(str(text), tokenizer, 64, QuantizeJob())
    assert {len(w) for w in short.calibration + short.measured} == {64}


def test_a_text_may_be_given_itself(tmp_path: Path) -> None:
    tokenizer = load_model(GOLDEN / "llama").tokenizer
    found = read_calibration("a text of words " * 500, tokenizer, 512, QuantizeJob())
    assert found.calibration
    assert len(found.measured) == 1
    with pytest.raises(InvalidRequest, match=r"--calibrate 'absent\.txt': no such file, and no text"):
        read_calibration("absent.txt", tokenizer, 512, QuantizeJob())
    with pytest.raises(InvalidRequest, match=r"tokens; at least 1024 are needed, better 16,384"):
        read_calibration("too short", tokenizer, 512, QuantizeJob())
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(InvalidRequest, match="the text has 0 tokens"):
        read_calibration(str(tmp_path / "empty"), tokenizer, 512, QuantizeJob())
