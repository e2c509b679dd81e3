"""The judge's model, from the port to every place of the config that names it.

Three places name a judge: the compare server says which model server it calls, that server says which model
it serves, and `genrm_model_name` says how requests name it. An input that reaches only some of them is
loaded and never asked, or asked for and not there.
"""

from __future__ import annotations

from collections.abc import Iterator

from nemotron.engines.nemo_rl.rules.genrm import COMPARE_SERVER, JUDGE_SERVER, uses_genrm
from nemotron.engines.nemo_rl.rules.gym import GYM_SECTION
from nemotron.engines.nemo_rl.rules.view import View
from nemotron.findings import Finding

PORT = "reward_model"
_PLACEHOLDER = f"in://{PORT}"
_COMPARE = f"{GYM_SECTION}.{COMPARE_SERVER}.resources_servers.genrm_compare"


def judge_findings(view: View) -> Iterator[Finding]:
    """Errors where the bound judge is not the one that the compare server calls by that name."""
    if view.entry_point != "grpo_nemo_gym" or not uses_genrm(view):
        return
    bound = [name for name in view.table(GYM_SECTION) if view.get(model_key(name)) == _PLACEHOLDER]
    if not bound:
        return
    called = view.text(f"{_COMPARE}.genrm_model_server.name") or JUDGE_SERVER
    told = view.get(model_key(called))
    if told != _PLACEHOLDER:
        there = "names no model" if told is None else f"serves {told}"
        yield Finding(
            "nemo_rl.judge_input",
            "error",
            f"the input {PORT} is served by {bound[0]}; the compare server calls {called}, which {there}",
            where=f"{_COMPARE}.genrm_model_server.name",
            valid=", ".join(bound),
            fix=f"{_COMPARE}.genrm_model_server.name={bound[0]}",
        )


def judge_models(view: View) -> tuple[str, ...]:
    """The models that judge, as the config names them, each once; those served elsewhere are left out."""
    if view.entry_point != "grpo_nemo_gym" or not uses_genrm(view):
        return ()
    server = view.text(f"{_COMPARE}.genrm_model_server.name") or JUDGE_SERVER
    if view.get(f"{model_key(server).removesuffix('.model')}.base_url"):
        return ()
    names = (view.text(model_key(server)), view.text(f"{GYM_SECTION}.genrm_model_name"))
    return tuple(dict.fromkeys(name for name in names if name))


def model_key(server: str) -> str:
    """The key that says which model a judge's server serves."""
    return f"{GYM_SECTION}.{server}.responses_api_models.genrm_model.model"
