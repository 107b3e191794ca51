"""A Hugging Face folder with the weights of a GGUF, unpacked: `python hf_folder.py MODEL.gguf FOLDER`.

Run with a Python that has torch, transformers and gguf. The converters of CTranslate2 and onnxruntime-genai start here.
"""

import sys
from pathlib import Path

import gguf
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
from make_golden import real_model, real_tokenizer


def main() -> None:
    path, folder = sys.argv[1:]
    reader = gguf.GGUFReader(path)
    model = real_model(reader)
    ids = {name: reader.fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("bos", "eos")}
    model.config.update({f"{name}_token_id": id for name, id in ids.items()})
    model.generation_config.update(**{f"{name}_token_id": id for name, id in ids.items()})
    model.save_pretrained(folder)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    names = {f"{name}_token": tokens[id] for name, id in ids.items()}
    PreTrainedTokenizerFast(tokenizer_object=real_tokenizer(reader), **names).save_pretrained(folder)


if __name__ == "__main__":
    main()
