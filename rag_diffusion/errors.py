"""Errors a user can meet. Each message says what was expected, what came and what to do."""


class RagDiffusionError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(RagDiffusionError):
    """A key or value in params.yaml is unknown, missing or of the wrong type."""


class BusyError(RagDiffusionError):
    """Another process is writing what was to be written."""


class DataError(RagDiffusionError):
    """An input file, image, caption or shard is missing, damaged or empty."""


class LineageError(RagDiffusionError):
    """Two artifacts do not belong together, e.g. an index built from another corpus."""


class ModelError(RagDiffusionError):
    """Weights are missing, unreachable, of another shape, or have seen what they must not."""


class VariantError(ModelError, ValueError):
    """Weights of the variant that is asked for are not there."""


class RemoteError(RagDiffusionError):
    """Another machine is dead or slow, is at an address that must not be asked, or answers with what it must not."""


class MissingExtraError(RagDiffusionError, ImportError):
    """A package that only an extra of this library brings is not installed."""


class QueryError(RagDiffusionError):
    """A query that cannot be answered: an unknown index, a vector of another width."""


class MixedBatchError(RagDiffusionError, ValueError):
    """Pictures that begin with a neighbor and such as have none cannot be drawn at once."""


class ExcludedPairError(LineageError, QueryError):
    """A pair that a query wants left out is not there at all."""


class BlockedError(RagDiffusionError, ValueError):
    """A prompt, or what is said of a neighbor, is on a blocklist of the project."""
