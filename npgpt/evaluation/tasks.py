"""The tasks by their names, and the protocols of each, the default first."""

from npgpt.errors import ConfigError, show
from npgpt.evaluation import hellaswag, lambada, wikitext
from npgpt.evaluation.task import Task

TASKS = {
    "lambada": lambada.PROTOCOLS,
    "hellaswag": hellaswag.PROTOCOLS,
    "wikitext": wikitext.PROTOCOLS,
}


def find(name: str, protocol: str | None = None) -> Task:
    """Return a task in a protocol, by default its first. Raises ConfigError if it is unknown."""
    if name not in TASKS:
        raise ConfigError(f"task is {show(name)}, but must be one of {', '.join(TASKS)}")
    protocols = TASKS[name]
    if protocol is None:
        return next(iter(protocols.values()))
    if protocol not in protocols:
        raise ConfigError(f"protocol is {show(protocol)}, but {name} has {' and '.join(protocols)}")
    return protocols[protocol]
