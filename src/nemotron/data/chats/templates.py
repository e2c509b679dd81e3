"""The chat template that a config asks for."""

from __future__ import annotations

from nemotron.errors import UsageError

DEFAULT = "default"
# One message after the other and nothing between them: for texts that have their template already.
PASSTHROUGH = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def choose_template(setting: str | None, own: str | None) -> str:
    """The template, as Jinja text.

    setting: `default` for the tokenizer's own, None for `PASSTHROUGH`, else a template. own: that of the
    tokenizer. Raises `UsageError` when there is none, and for a word that is no template.
    """
    if setting is None:
        return PASSTHROUGH
    if setting != DEFAULT:
        if "{" not in setting:
            what = f"{setting!r:.60} is no chat template: there is no {{% or {{{{ in it"
            fix = "default, null for no template, or the text of a template in Jinja"
            raise UsageError(what, where="tokenizer.chat_template", valid=(fix,))
        return setting
    if not own:
        raise UsageError(
            "the tokenizer has no chat template",
            where="tokenizer.chat_template",
            next="give a template, or null where the texts have theirs already",
        )
    return own
