"""One file of metrics from a distributed test."""

from mmengine.dist import master_only
from mmengine.hooks import LoggerHook


def write_metrics_once() -> None:
    """Let rank 0 alone write the metrics of a test.

    In mmengine every rank writes them to the same file, each with its own times: one that is longer than the last one
    leaves its end behind, and the JSON cannot be read (for training scalars: mmengine, pull request 124).
    """
    LoggerHook.after_test_epoch = master_only(LoggerHook.after_test_epoch)
