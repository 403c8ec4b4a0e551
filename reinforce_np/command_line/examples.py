"""``examples``: the collection of models, a line each."""

import inspect
import json

from reinforce_np.examples import CATALOGUE


def add_to(commands):
    """Add the command to the parser."""
    parser = commands.add_parser(
        "examples",
        help="list the models that --mdp knows by name",
        description="List the models that --mdp knows by name.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.set_defaults(run=run)


def run(options):
    """Run the command and return its exit code."""
    models = [
        {
            "name": name,
            "n_states": mdp.n_states,
            "n_actions": mdp.n_actions,
            "gamma": mdp.gamma,
            "horizon": mdp.horizon,
            "about": str(inspect.getdoc(example)).splitlines()[0],
        }
        for name, example in CATALOGUE.items()
        for mdp in [example()]
    ]
    if options.json:
        print(json.dumps(models, allow_nan=False))
        return 0
    print(f"{'name':<18} {'states':>6} {'actions':>7} {'gamma':>6} {'horizon':>7}  about")
    for model in models:
        print("{name:<18} {n_states:>6} {n_actions:>7} {gamma:>6g} {horizon!s:>7}  {about}".format(**model))
    return 0
