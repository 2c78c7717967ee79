"""What was given on the command line, made into what the API takes."""

from __future__ import annotations

from typing import Any


def task_from(name: str | None, **options: Any) -> Any:
    """The task from its name or files; asking for neither is a usage error."""
    from expunge.data.files import parse_map
    from expunge.data.tasks import load_task
    from expunge.errors import UsageError

    if name is None and options.get("forget") is None:
        raise UsageError("No task was given.", "A task says what must be forgotten.",
                         "Give --task authors, --task tofu:forget10, or --forget FILE.")
    mapping, template = options.pop("mapping"), options.pop("template")
    if template is not None and "{prompt}" not in template:
        raise UsageError(f"--template {template!r} has no place for the prompt.",
                         fix='Write {prompt} where it goes, such as "Q: {prompt}\nA:".')
    task = load_task(name, mapping=parse_map(mapping) if mapping else None, **options)
    return task if template is None else task.model_copy(update={"template": template})
