"""benchmarks/kv_quality.py: reading what llama-perplexity prints."""

import pytest

from benchmarks.kv_quality import parse, show

OUTPUT = """
====== Perplexity statistics ======
Mean PPL(Q)                   :  22.661874 ±   0.354561
Mean PPL(base)                :  22.590123 ±   0.353399
====== KL divergence statistics ======
Mean    KLD:   0.003069 ±   0.000041
Maximum KLD:   0.350000
====== Token probability statistics ======
RMS Δp    :  1.400 ± 0.035 %
Same top p: 97.206 ± 0.100 %
"""


def test_figures_are_read() -> None:
    assert parse(OUTPUT) == {
        "kl_divergence": 0.003069,
        "top1_agreement": pytest.approx(0.97206),
        "perplexity": 22.661874,
    }


@pytest.mark.parametrize("missing", ["Mean PPL(Q)", "Mean    KLD", "Same top p"])
def test_a_missing_figure_is_an_error(missing: str) -> None:
    with pytest.raises(ValueError, match="llama-perplexity printed no"):
        parse(OUTPUT.replace(missing, "something else"))


def test_rows_of_both_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"window": 512, "codec": "q8", "bits_per_value": 8.5, **parse(OUTPUT)}
    show([{**row, "retrieve_accuracy": 0.5}, {**row, "codec": "llama.cpp q8_0"}])
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].endswith("50.0%")
    assert "llama.cpp q8_0" in shown[2]
