"""``verifier robustness MODEL INPUT --epsilon 2/255``: does every input near this one keep its label?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.properties.query import Query


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands.arguments import (
        a_file,
        add_domain,
        add_input,
        add_model,
        add_reading,
        add_solving_arguments,
        natural,
        radius,
    )

    parser = subparsers.add_parser(
        "robustness",
        help="does every input near this one keep its label?",
        description="Local robustness: does every input within the L∞ distance EPSILON of the given one, inside the domain, "
        "keep its label? Ties count as another label.",
        epilog="exit status: 0 holds, 1 violated, 2 bad usage or input, 3 unknown, 4 time-out, 5 error",
    )
    add_model(parser)
    add_input(parser)
    parser.add_argument(
        "--epsilon", type=radius, required=True, metavar="RADIUS",
        help="radius in the data's units (after --scale), a number or a fraction: 2/255 is taken exactly",
    )  # fmt: skip
    parser.add_argument("--label", type=natural, help="the label to keep (default: the network's own)")
    add_domain(parser)
    parser.add_argument(
        "--proof", type=a_file, metavar="FILE", help="if it holds, write a proof for `verifier.check_proof`; slower"
    )
    add_reading(parser)
    add_solving_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Result:
    """Run the command."""
    from dataclasses import replace

    import verifier
    from verifier.commands.arguments import domain_of, options_of
    from verifier.commands.deciding import decide, result_of
    from verifier.commands.inputs import Reader, load_model

    domain = domain_of(args.domain)
    network = load_model(args, ordered=True)
    reader = Reader(args, network)
    x = reader.input(args.input)

    def question() -> Query:
        return verifier.robustness(
            network, x, args.epsilon, label=args.label, domain=domain, mean=args.mean, std=args.std
        )

    verdict, query = decide(args, question, replace(options_of(args), proof=args.proof is not None))
    if verdict.proof is not None:
        verdict.proof.save(args.proof)
    asked = {"epsilon": args.epsilon, "label": args.label, "domain": args.domain}
    return result_of(verdict, query, args, reader=reader, options=asked)
