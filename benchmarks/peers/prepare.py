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
    settings = settings_for(files, with_q8_cache=[name for name in files if name.startswith("Q4_")])
    return LlamaCpp(build.llamacpp_version(programs), programs, files, settings, place.threads)


def ctranslate2(place: Place) -> Engine:
    source = place.hf_folder
    folder = place.cache / "models" / f"{place.model.stem}-ctranslate2"
    python = build.environment(place.cache, "ctranslate2", base="transformers") / "bin" / "python"
    version = build.installed("ctranslate2")
    command = [python, "-m", "ctranslate2.converters.transformers", "--model", source, "--output_dir", folder]
    models.converted(place.cache, folder, [*command, "--quantization", "int8"], version)
    return place.child("CTranslate2", version, ("int8",), (python, "ct2.py", folder))


def onnxruntime(place: Place) -> Engine:
    source = place.hf_folder
    python = build.environment(place.cache, "onnxruntime-genai", base="transformers") / "bin" / "python"
    version = build.installed("onnxruntime-genai")
    folder = place.cache / "models" / f"{place.model.stem}-onnxruntime"
    for precision in ("int4", "int8"):
        options = ["-e", "cpu", "-c", place.cache / "onnx-cache", "--extra_options", "int4_accuracy_level=4"]
        into = folder / precision
        command = [python, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", into, "-p", precision]
        models.converted(place.cache, into, [*command, *options], version)
    return place.child("onnxruntime-genai", version, ("int4", "int8"), (python, "ort.py", folder))


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
