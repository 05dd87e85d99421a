"""``verifier robustness MODEL INPUT --epsilon 2/255``: does every input near this one keep its label?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.commands.result import Result
    from verifier.properties.query import Query


def add_parser(subparsers: Any) -> None:
    """Add the command's parser."""
    from verifier.commands import arguments

    parser = subparsers.add_parser(
        "robustness",
        description="Local robustness: does every input within the L∞ distance EPSILON of the given one, inside the domain, "
        "keep its label? Ties count as another label.",
        epilog=arguments.VERDICT_STATUS,
    )
    arguments.add_model(parser)
    arguments.add_input(parser)
    parser.add_argument(
        "--epsilon", type=arguments.radius, required=True, metavar="RADIUS",
        help="radius in the data's units (after --scale), a number or a fraction: 2/255 is taken exactly",
    )  # fmt: skip
    parser.add_argument("--label", type=arguments.natural, help="the label to keep (default: the network's own)")
    arguments.add_domain(parser)
    parser.add_argument(
        "--proof",
        type=arguments.a_file,
        metavar="FILE",
        help="if it holds, write a proof for `verifier.check_proof`; slower",
    )
    arguments.add_reading(parser)
    arguments.add_solving_arguments(parser)
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
