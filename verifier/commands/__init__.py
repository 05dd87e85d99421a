"""The subcommands of ``verifier``: one small module each, with ``add_parser(subparsers)`` and ``run(args)``."""
