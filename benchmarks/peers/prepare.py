"""Each peer made ready: installed or built, its weights converted. Raises Missing where that cannot be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import build, models
from benchmarks.peers.child import ChildEngine, Engine
from benchmarks.peers.llamacpp import LlamaCpp, settings_for

__all__ = ["PEERS", "Place", "farthing"]


@dataclass(frozen=True)
class Place:
    """Where things are, and how many threads each engine gets."""

    cache: Path
    model: Path  # the GGUF that farthing runs
    threads: int
    llamacpp: Path | None  # a folder of its programs that is there already
    is_large: bool = False

    def child(self, name: str, version: str, settings: tuple[str, ...], command: tuple[str | Path, ...]) -> ChildEngine:
        return ChildEngine(name, version, settings, command, self.threads, self.cache / "logs")

    @property
    def torch_python(self) -> Path:
        return build.environment(self.cache, "transformers") / "bin" / "python"

    @property
    def hf_folder(self) -> Path:
        return models.hf_folder(self.cache, self.torch_python, self.model)


def farthing(place: Place, python: str, version: str) -> Engine:
    return place.child("farthing", version, ("int8",), (python, "ours.py", place.model))


def llamacpp(place: Place) -> Engine:
    programs = build.llamacpp_programs(place.cache, place.llamacpp)
    formats = models.LARGE_FORMATS if place.is_large else models.SMALL_FORMATS
    files = models.quantized(place.cache, programs, place.model, formats)
    version, settings = build.llamacpp_version(programs), settings_for(files, with_q8_cache=["Q4_0"])
    return LlamaCpp(version, programs, files, settings, place.threads, repetitions=1 if place.is_large else 3)


def ctranslate2(place: Place) -> Engine:
    source = place.hf_folder
    python = build.environment(place.cache, "ctranslate2", base="transformers") / "bin" / "python"
    version = build.installed("ctranslate2")
    command = [python, "-m", "ctranslate2.converters.transformers", "--model", source, "--output_dir", "{}"]
    folder = models.converted(place.cache, place.model, "ctranslate2", [*command, "--quantization", "int8"], version)
    return place.child("CTranslate2", version, ("int8",), (python, "ct2.py", folder))


def onnxruntime(place: Place) -> Engine:
    source = place.hf_folder
    python = build.environment(place.cache, "onnxruntime-genai", base="transformers") / "bin" / "python"
    version = build.installed("onnxruntime-genai")
    builder = [python, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", "{}", "-e", "cpu"]
    builder += ["-c", place.cache / "onnx-cache"]
    options = ["--extra_options", "int4_accuracy_level=4"]
    folders = {
        name: models.converted(place.cache, place.model, f"onnx-{name}", [*builder, "-p", name, *options], version)
        for name in ("int4", "int8")
    }
    folder = str(folders["int4"]).removesuffix("int4")  # each setting's name completes it
    return place.child("onnxruntime-genai", version, tuple(folders), (python, "ort.py", folder))


def openvino(place: Place) -> Engine:
    python = build.environment(place.cache, "openvino-genai") / "bin" / "python"
    settings = ("PA", "PA cached prefixes", "SDPA")
    return place.child("OpenVINO GenAI", build.installed("openvino-genai"), settings, (python, "ov.py", place.model))


def transformers(place: Place) -> Engine:
    settings = ("float32", "bfloat16")
    version = build.installed("transformers")
    return place.child("transformers", version, settings, (place.torch_python, "hf.py", place.hf_folder))


PEERS: dict[str, Callable[[Place], Engine]] = {
    "llama.cpp": llamacpp,
    "ctranslate2": ctranslate2,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "transformers": transformers,
}
