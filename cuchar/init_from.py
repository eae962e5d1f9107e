"""Fine-tuning: a new run whose parameters come from a checkpoint, matched character by character."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.checkpoint import checkpoint_file, expect_regular, read_checkpoint
from cuchar.config import ModelConfig, TrainConfig
from cuchar.errors import CheckpointError, OptionError
from cuchar.parameters import Parameters, initialise
from cuchar.text_files import absolute
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option


@dataclass(frozen=True)
class Source:
    """A checkpoint that a new run's parameters come from.

    Args:
        sha256: of the whole file.
    """

    file: Path
    sha256: str
    parameters: Parameters
    vocabulary: Vocabulary

    def with_sizes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given options, and hidden and layers as the checkpoint has them.

        Raises:
            OptionError: another size was given.
        """
        model = self.parameters.model
        sizes = {"hidden": model.hidden, "layers": model.layers}
        for name, size in sizes.items():
            if given.get(name, size) != size:
                raise OptionError(
                    f"{option(name)}: expected the {size} of {option('init_from', str(self.file))}, or none, found {given[name]}"
                )
        return {**given, **sizes}

    def expect_kind(self, is_bytes: bool) -> None:
        """Check that the checkpoint is of bytes, or of characters, as the new run is.

        Raises:
            CheckpointError: one is of characters and the other of bytes.
        """
        kinds = {False: "characters", True: "bytes"}
        if self.vocabulary.is_bytes != is_bytes:
            raise CheckpointError(
                f"{option('init_from', str(self.file))}: expected a model of {kinds[is_bytes]}, "
                f"found one of {kinds[self.vocabulary.is_bytes]}"
                + (f"; {option('bytes', True)} trains such a model" if self.vocabulary.is_bytes else "")
            )

    def facts(self) -> dict[str, str]:
        """What the new run stores of it."""
        return {"path": absolute(self.file), "sha256": self.sha256}

    def parameters_for(self, vocabulary: Vocabulary, config: TrainConfig) -> Parameters:
        """The parameters that a run on a text with this vocabulary begins with.

        A character has one column of the first layer's W_ih, one row of the head's W and one of its biases. Characters
        that the checkpoint knows keep theirs, wherever in the two vocabularies they stand. Those of new characters are
        what `initialise` draws, and everything else is the checkpoint's.

        Raises:
            CheckpointError: one is of characters and the other of bytes, or a float32 cannot hold one of the weights.
            OptionError: the sizes differ.
        """
        self.expect_kind(vocabulary.is_bytes)
        self.with_sizes({"hidden": config.hidden, "layers": config.layers})
        parameters = initialise(ModelConfig(len(vocabulary), config.hidden, config.layers), config.seed)
        _, here, there = np.intersect1d(vocabulary.codes, self.vocabulary.codes, return_indices=True)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is found out below
            for name, view in parameters.items():
                kept = self.parameters[name]
                if name == "lstm.weight_ih_l0":
                    view[:, here] = kept[:, there]
                elif name in ("head.weight", "head.bias"):
                    view[here] = kept[there]
                else:
                    view[...] = kept
        if not np.isfinite(parameters.flat).all():
            raise CheckpointError(
                f"{option('init_from', str(self.file))}: expected weights that a float32 can hold, found larger ones"
            )
        return parameters

    def note(self, vocabulary: Vocabulary) -> str:
        """What became of the characters, as a line of text."""
        kept = int(np.isin(vocabulary.codes, self.vocabulary.codes).sum())
        return (
            f"{option('init_from', str(self.file))} ({self.sha256[:12]}): {kept} of {len(vocabulary)} characters keep their weights, "
            f"{len(vocabulary) - kept} are new, {len(self.vocabulary) - kept} of the checkpoint's are dropped"
        )


def read_source(path: str | Path) -> Source:
    """Read a checkpoint to begin with: a file, or a run folder, of which the best is taken or else the last.

    Raises:
        CheckpointError: it is missing or damaged, or another file took its place meanwhile.
    """
    file = checkpoint_file(path)
    expect_regular(file)
    sha256 = _sha256(file)
    checkpoint = read_checkpoint(file)
    if _sha256(file) != sha256:
        raise CheckpointError(
            f"{file}: expected one checkpoint while it is read, found another in its place: is a run training there? "
            "A copy of the file stays as it is"
        )
    return Source(file, sha256, checkpoint.parameters, checkpoint.vocabulary)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{file}: expected a readable file, found: {error.strerror or error}") from None


def read_source_again(facts: Mapping[str, str]) -> Source:
    """Read the checkpoint of a run that was killed before it had saved its beginning.

    Raises:
        CheckpointError: it is missing, damaged, or not the same any more.
    """
    source = read_source(facts["path"])
    if source.sha256 != facts["sha256"]:
        raise CheckpointError(
            f"{source.file}: expected the checkpoint that the run began with (SHA-256 {facts['sha256'][:12]}), "
            f"found another ({source.sha256[:12]})"
        )
    return source
